"""Database errors as errors of the history."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from adapters.sql.database import DatabaseLost
from adapters.sql.errors import DATABASE_ERRORS
from application.ports.history import HistoryLost, HistoryUnavailable


class Explaining(Protocol):
    """What can explain its errors, e.g. a `Database`."""

    def explain(self, error: Exception) -> str: ...


@contextmanager
def history_errors(database: Explaining) -> Iterator[None]:
    """Raise HistoryUnavailable or HistoryLost from any database error raised in the block."""
    try:
        yield
    except DATABASE_ERRORS as error:
        kind = HistoryLost if isinstance(error, DatabaseLost) else HistoryUnavailable
        raise kind(retry_after=1.0, explanation=database.explain(error)) from error
