"""Database errors, and their translation into errors of ports."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from adapters.sql.database import DatabaseClosed, DatabaseLost, DatabaseSilent
from domain.errors import ChatError

DATABASE_ERRORS: Final = (SQLAlchemyError, DatabaseClosed, DatabaseLost, DatabaseSilent)
"""All errors that a `Database` raises itself. It wraps the driver's own errors in SQLAlchemy's."""


@contextmanager
def raised_as(kind: type[ChatError]) -> Iterator[None]:
    """Raise `kind`, an error of a port, from any database error raised in the block."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise kind(retry_after=1.0) from error
