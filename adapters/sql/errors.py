"""What a database raises of its own."""

import sqlite3
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from adapters.sql.database import DatabaseClosed

DATABASE_ERRORS: Final = (SQLAlchemyError, sqlite3.Error, DatabaseClosed)
"""All of them; adapters turn them into errors of their ports."""
