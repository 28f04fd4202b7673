"""Selection of the SQL dialect: the only module that names the dialects."""

from collections.abc import Callable

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from adapters.sql.database import Database
from domain.errors import Unusable


def database_at(url: str, time_to_close: Callable[[], float] | None = None) -> Database:
    """Return the database at an SQLAlchemy URL, not yet opened. Imports only its own dialect.

    `time_to_close` returns how many seconds closing it may take, if that is limited.

    Raises:
        Unusable: `url` is malformed, or there is no support for its dialect.
    """
    try:
        dialect = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise Unusable("The database URL is malformed; a valid one is, e.g., sqlite:///chat.db.") from error
    match dialect:
        case "sqlite":
            from adapters.sql.sqlite.database import SQLiteDatabase

            return SQLiteDatabase(url, time_to_close=time_to_close)
    raise Unusable(f"The database dialect {dialect} is not supported; a valid URL is, e.g., sqlite:///chat.db.")
