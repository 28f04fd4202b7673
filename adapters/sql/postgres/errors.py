"""Why PostgreSQL fails, as a sentence for the operator, and whether the reason can pass by itself."""

import re
from typing import Final

import psycopg
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from adapters.sql.database import DatabaseClosed, DatabaseLost, DatabaseSilent
from domain.errors import TemporarilyUnusable, Unusable

CHECK: Final = "check DATABASE_URL"

_MAX_MESSAGE: Final = 300
"""Characters of a message that are quoted."""

_PRIVILEGE: Final = "42501"
"""Its message names a table, a schema or the like, and no values."""

_REASONS: Final = {
    "25006": "it is read-only",
    "28P01": "it rejects the password",
    "3D000": "there is no such database",
    "3F000": "its user may use no schema of it",
    _PRIVILEGE: "its user lacks a privilege",
    "42P07": "it holds tables of another program with the same names",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection left",
    "55P03": "it waited too long for a lock",
    "57014": "a statement took too long",
    "57P01": "it is shutting down",
    "57P02": "it crashed",
    "57P03": "it is starting or shutting down",
}
"""By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html). Its messages may quote values."""

_TRANSIENT_CLASSES: Final = frozenset({"08", "40", "53", "55", "57", "58"})
"""Connection, rolled-back transaction, resources, locks, operator and I/O."""

_PERMANENT: Final = re.compile(
    "FATAL:.*(authentication|does not exist|no pg_hba|not permitted|permission)"
    "|no password supplied|does not support SSL|certificate"
)
"""Messages about a connection that failed for a reason that does not pass. They have no SQLSTATE."""


def explain(error: Exception) -> str:
    """Return why the database failed. Quotes neither statements nor values."""
    if isinstance(error, DatabaseLost):
        return str(error)
    if isinstance(error, DatabaseClosed):
        return "The database is not open."
    if isinstance(error, DatabaseSilent):
        return "The database does not respond."
    return f"The database cannot be used: {_reason(error)}."


def unusable(url: URL, error: Exception, advice: str = f"; {CHECK}") -> Unusable:
    """Return the error to raise if the database cannot be used because of `error`.

    `advice` ends the sentence if the reason does not pass by itself.
    """
    sentence = f"The database {named(url)} cannot be used: {_reason(error)}"
    if _is_transient(error):
        return TemporarilyUnusable(f"{sentence}.")
    return Unusable(f"{sentence}{advice}.")


def named(url: URL) -> str:
    """Return the URL without user, password and parameters."""
    host = url.host or url.query.get("host") or "localhost"
    return f"{url.database or '(default)'} at {host if isinstance(host, str) else ', '.join(host)}"


def is_deadlock(error: Exception) -> bool:
    """Whether the transaction was rolled back because it and another one waited for each other."""
    return isinstance(_driver_error(error), psycopg.errors.DeadlockDetected)


def remove_values(error: Exception) -> None:
    """Leave only the primary message of an error: PostgreSQL quotes values of rows in its detail."""
    cause = _driver_error(error)
    if isinstance(cause, psycopg.Error) and (message := cause.diag.message_primary):
        cause.args = (message,)
        if isinstance(error, DBAPIError):
            error.args = (f"({type(cause).__qualname__}) {message}",)


def _reason(error: Exception) -> str:
    cause = _driver_error(error)
    if isinstance(cause, psycopg.Error) and cause.sqlstate:
        if cause.sqlstate == _PRIVILEGE and cause.diag.message_primary:
            return f"{_REASONS[_PRIVILEGE]} ({cause.diag.message_primary[:_MAX_MESSAGE]})"
        return _REASONS.get(cause.sqlstate) or f"PostgreSQL reports {cause.sqlstate} ({type(cause).__name__})"
    if isinstance(cause, (psycopg.OperationalError, psycopg.ProgrammingError)):  # about the connection or its URL
        message = str(cause).partition("\n")[0]  # of the last address; hints and other addresses follow
        return message.removeprefix("connection failed: ")[:_MAX_MESSAGE].rstrip(".")
    return f"unexpected {type(cause).__qualname__}"


def _is_transient(error: Exception) -> bool:
    cause = _driver_error(error)
    if isinstance(cause, psycopg.Error) and cause.sqlstate:
        return cause.sqlstate[:2] in _TRANSIENT_CLASSES
    return isinstance(cause, psycopg.OperationalError) and not _PERMANENT.search(str(cause))


def _driver_error(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
