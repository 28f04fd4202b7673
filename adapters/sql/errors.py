"""What a database raises of its own, and how it reaches a port."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from adapters.sql.database import DatabaseClosed
from domain.errors import ChatError

DATABASE_ERRORS: Final = (SQLAlchemyError, sqlite3.Error, DatabaseClosed)
"""All of them; adapters turn them into errors of their ports."""

RETRY_AFTER: Final = 1.0
"""Seconds after which it makes sense to ask again a database that failed."""


@contextmanager
def raised_as(kind: type[ChatError]) -> Iterator[None]:
    """Turn what a database raises inside into an error of a port."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise kind(retry_after=RETRY_AFTER) from error
