"""Checks on the file of an SQLite database: exclusive to this process, undamaged, and ours."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from adapters.sql.database import DatabaseLost
from adapters.sql.sqlite.errors import cannot_be_used, unusable
from domain.errors import Unusable

CHECK: Final = "check DATA_DIR or DATABASE_URL"
"""The settings that name the file."""

_SERVES_ONE: Final = (
    "stop it, or set another DATA_DIR. An SQLite file serves one process; several can share PostgreSQL (DATABASE_URL)"
)


@contextmanager
def exclusive_lock(path: Path, advice: str = _SERVES_ONE) -> Iterator[None]:
    """Lock the database against other processes, with a lock file that the system releases when this process ends.

    `advice` says what to do if another process has the lock.

    Raises:
        Unusable: another process has the lock, or the folder is not writable.
    """
    lock_path = Path(f"{path}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if lock_path.exists():
            raise unusable(path, error, f"The file {lock_path} cannot be opened: {error.strerror}; {CHECK}.") from error
        sentence = f"The folder {path.parent} cannot hold a database: {error.strerror}; {CHECK}."
        raise unusable(path, error, sentence) from error
    try:
        _lock(lock, path, advice)
        yield
    finally:
        os.close(lock)


def _lock(lock: int, path: Path, advice: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Unusable(f"Another process uses the database {path}; {advice}.") from error


def schema_version(path: Path, max_check_bytes: int) -> str | None:
    """Return the schema's version: empty before the first migration, None if there is no database yet.

    Checks files up to `max_check_bytes` for damage. Opens the file read-only, so that a damaged one stays as it is for
    a repair.

    Raises:
        Unusable: the file is damaged, or is not a database of this service.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            _check_for_orphaned_log(path)
            return None
        if path.is_dir():
            raise Unusable(f"The database {path} is a directory; {CHECK}.")
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            if path.stat().st_size <= max_check_bytes:
                _check_integrity(path, connection)
            return _read_version(path, connection)
    except OSError as error:
        raise unusable(path, error, f"The database {path} cannot be read: {error.strerror}.") from error
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise Unusable(f"The file {path} is not an SQLite database, or its header is damaged; {CHECK}.") from error
        raise cannot_be_used(path, error) from error


def create_file(path: Path) -> None:
    """Create the file, readable only by its owner, if it does not exist; check that it is writable.

    Raises:
        Unusable: it cannot be created or written to.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        sentence = f"The database {path} cannot be written to: {error.strerror}; {CHECK}."
        raise unusable(path, error, sentence) from error


class OpenedFile:
    """Tells whether the path still names the file that was there when this context was entered.

    Holds the file open meanwhile, so that its inode is not reused. SQLite's connections have to be closed first:
    closing any descriptor of the file releases the process's locks on it.

    The same holds for the write-ahead log between `hold_log` and `release_log`. SQLite goes on writing to a log that
    was removed, and a new connection would create another one beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log_path = f"{path}-wal"
        self._descriptor = -1
        self._opened: os.stat_result | None = None
        self._log: os.stat_result | None = None

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._opened = os.fstat(self._descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def hold_log(self) -> None:
        """Expect the log to stay, because a connection that writes has opened it. Cheap if it is held already."""
        if self._log is None:
            with suppress(OSError):
                self._log = os.stat(self._log_path)

    def release_log(self) -> None:
        """Expect no log any more, because that connection is about to be closed. A log that is missing stays so."""
        if self._log is None or _is_still(self._log_path, self._log):
            self._log = None

    def check(self) -> None:
        """Blocks, for microseconds on a local disk.

        Raises:
            DatabaseLost: the path of the file or of its log names another file, or none.
        """
        assert self._opened is not None
        if not _is_still(self.path, self._opened):
            name = self.path.name
            raise DatabaseLost(  # on another file, SQLite would apply the log of this one, and damage it
                f"The database file {self.path} was removed or replaced: put it back, or stop the service, move "
                f"{name}-wal and {name}-shm away, and start it again."
            )
        log = self._log
        if log is not None and not _is_still(self._log_path, log) and self._log is log:  # not released meanwhile
            raise DatabaseLost(
                f"The database's log {self._log_path} was removed or replaced; stop the service with SIGTERM, which "
                "saves its content, and start it again."
            )


def _is_still(path: Path | str, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), opened)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # says nothing about the file; if the disk fails, SQLite reports it


def _check_for_orphaned_log(path: Path) -> None:
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size > 0:  # SQLite would delete it, and the committed turns in it
        raise Unusable(f"The database {path} is missing, but its log {log.name} is there; restore the database file.")


def _check_integrity(path: Path, connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise Unusable(f"The database {path} is damaged: restore it from a backup, or move it away.")


def _read_version(path: Path, connection: sqlite3.Connection) -> str | None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise Unusable(f"The file {path} is the database of another program; {CHECK}.")
    versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(versions[0][0]) if versions else ""
