"""Selection of the SQL dialect: the only module that names the dialects."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from adapters.sql.database import Database
from domain.errors import Unusable

_INSTALL_POSTGRES: Final = 'pip install "psycopg[binary]>=3.3"'


def database_at(url: str, time_to_close: Callable[[], float] | None = None) -> Database:
    """Return the database at an SQLAlchemy URL, not yet opened. Imports only its own dialect.

    `time_to_close` returns how many seconds closing it may take, if that is limited.

    Raises:
        Unusable: `url` is malformed, there is no support for its dialect, or its driver is not installed.
    """
    try:
        dialect = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise Unusable("The database URL is malformed; a valid one is, e.g., sqlite:///chat.db.") from error
    match dialect:
        case "sqlite":
            from adapters.sql.sqlite.database import SQLiteDatabase

            return SQLiteDatabase(url, time_to_close=time_to_close)
        case "postgresql" | "postgres":
            try:
                from adapters.sql.postgres.database import PostgresDatabase
            except ModuleNotFoundError as error:
                if error.name not in ("psycopg", "psycopg_binary"):
                    raise
                raise Unusable(f"The driver for PostgreSQL is not installed; run: {_INSTALL_POSTGRES}") from None
            return PostgresDatabase(url)
    raise Unusable(f"The database dialect {dialect} is not supported; a valid URL is, e.g., sqlite:///chat.db.")
