"""Why an SQLite database fails, as a sentence for the operator, and whether the reason can pass by itself."""

import errno
import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from adapters.sql.database import DatabaseClosed, DatabaseLost
from domain.errors import TemporarilyUnusable, Unusable

_TRANSIENT_CODES: Final = {
    sqlite3.SQLITE_BUSY: "another program has locked it",
    sqlite3.SQLITE_LOCKED: "another program has locked it",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "its disk is full",  # there is no space for the index of the write-ahead log
    sqlite3.SQLITE_IOERR: "its disk reports an I/O error",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}
_OTHER_CODES: Final = {
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_NOTADB: "its file is damaged",
}
_TRANSIENT_ERRNOS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}
)


def explain(error: Exception) -> str:
    """Return why the database failed. Quotes neither statements nor values."""
    if isinstance(error, DatabaseLost):
        return str(error)
    if isinstance(error, DatabaseClosed):
        return "The database is not open."
    return f"The database cannot be used: {_reason(error)}."


def unusable(path: Path, error: Exception, sentence: str) -> Unusable:
    """Return the error to raise if the database cannot be opened because of `error`.

    `sentence` says so if the reason does not pass by itself.
    """
    if _passes(error):
        return TemporarilyUnusable(f"The database {path} cannot be used: {_reason(error)}.")
    return Unusable(sentence)


def cannot_be_used(path: Path, error: Exception) -> Unusable:
    """Return the error to raise if an operation on the database fails because of `error`."""
    return unusable(path, error, f"The database {path} cannot be used: {_reason(error)}.")


def _reason(error: Exception) -> str:
    cause = _driver_error(error)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if (code := _code(cause)) is None:
        return f"unexpected {type(cause).__qualname__}"
    known = _TRANSIENT_CODES | _OTHER_CODES
    # An error with a code is one of sqlite3's, which mypy does not know.
    return known.get(code) or known.get(code & 0xFF) or str(cause.sqlite_errorname)  # type: ignore[attr-defined]


def _passes(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _TRANSIENT_ERRNOS
    code = _code(_driver_error(error))
    return code is not None and code & 0xFF in _TRANSIENT_CODES


def _driver_error(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _code(error: BaseException) -> int | None:
    """Return SQLite's extended result code. Errors of the driver itself have none."""
    return getattr(error, "sqlite_errorcode", None)
