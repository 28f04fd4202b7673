"""Database errors as errors of the history."""

from collections.abc import Iterator
from contextlib import contextmanager

from adapters.sql.database import Database, DatabaseLost
from adapters.sql.errors import DATABASE_ERRORS
from application.ports.history import HistoryLost, HistoryUnavailable


@contextmanager
def history_errors(database: Database) -> Iterator[None]:
    """Raise HistoryUnavailable or HistoryLost from any database error raised in the block."""
    try:
        yield
    except DATABASE_ERRORS as error:
        kind = HistoryLost if isinstance(error, DatabaseLost) else HistoryUnavailable
        raise kind(retry_after=1.0, explanation=database.explain(error)) from error
