"""The file of a SQLite database: whose it is, and whether it is fit for use."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from adapters.sql.database import DatabaseUnusable

QUICK_CHECK_BYTES: Final = 64 * 2**20
"""Up to this size a file is checked as a whole at each start, which takes 1 ms a megabyte.

In a larger one damage shows when it is met: what touches it fails as unavailable, and nothing is made up for it.
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the database to ourselves, by a lock on a file beside it that the system drops when the process ends.

    Raises:
        DatabaseUnusable: its folder can not be written to, or another process has the database.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseUnusable(f"The folder {path.parent} can not hold a database: {error.strerror}.") from error
    try:
        _lock(lock, path)
        yield
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DatabaseUnusable(
            f"Another process uses the database {path}; SQLite serves one process, several need PostgreSQL."
        ) from error


def inspect(path: Path) -> str | None:
    """The version of the schema in the file, empty before the first; None where there is no database yet.

    Looks without touching, so that a file that is refused is still fit for whoever repairs it.

    Raises:
        DatabaseUnusable: the file is damaged, or not one of ours.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            _check_log_of_nothing(path)
            return None
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            _check(path, connection)
            return _version(path, connection)
    except OSError as error:
        raise DatabaseUnusable(f"The database {path} can not be read: {error.strerror}.") from error
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise DatabaseUnusable(f"The file {path} is no SQLite database, or its beginning is damaged.") from error
        raise DatabaseUnusable(f"The database {path} can not be read: {error}.") from error


def make(path: Path) -> None:
    """See to it that the file is there, for nobody else to read, and can be written to.

    Raises:
        DatabaseUnusable: it can not.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise DatabaseUnusable(f"The database {path} can not be written to: {error.strerror}.") from error


def _check_log_of_nothing(path: Path) -> None:
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size > 0:  # SQLite would delete it, with the turns that are in it
        raise DatabaseUnusable(f"The database {path} is gone, but its log {log.name} is there; put the file back.")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    if path.stat().st_size <= QUICK_CHECK_BYTES:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DatabaseUnusable(f"The database {path} is damaged: restore it from a backup, or move it away.")


def _version(path: Path, connection: sqlite3.Connection) -> str | None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise DatabaseUnusable(f"The file {path} is the database of another program.")
    versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(versions[0][0]) if versions else ""
