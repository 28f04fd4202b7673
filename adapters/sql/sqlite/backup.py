"""A copy of an SQLite file that another process may be using."""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from adapters.sql.database import Copied
from adapters.sql.sqlite.file import CHECK, schema_version
from adapters.sql.sqlite.full_text import recreate_index
from adapters.sql.sqlite.remnants import Remnants
from domain.errors import Unusable

STEP: Final = 2**20
"""Bytes that are written to disk at a time."""

_INDEX_VERSION: Final = "0005"
"""The version of the schema from which on the full-text index is the present one."""

_ROWS: Final = "SELECT (SELECT count(*) FROM turns), (SELECT coalesce(sum(turns), 0) FROM conversations)"
"""The number of turns, and the number that the summaries of conversations add up to."""


def back_up(source: Path, target: Path) -> Copied:
    """Copy the database at `source` to the new file `target`, which has its name only when it is complete and on disk.

    The copy has the state of one moment. It is written row by row, so it contains no deleted rows; deleted words are
    removed from its full-text index. Writers of the source do not wait for it, but its write-ahead log grows until the
    copy has been made. Blocks.

    Raises:
        Unusable: There is no database, it cannot be read or is damaged, or `target` exists or cannot be written.
    """
    version = schema_version(source, max_check_bytes=0)
    if version is None:
        raise Unusable(f"There is no database {source}; {CHECK}.")
    if os.path.lexists(target):
        raise _exists(target)
    try:
        with _draft_of(target) as draft:
            _copy(source, draft, version)
            copied = _verify(source, draft)
            _publish(draft, target)
    except OSError as error:
        raise Unusable(f"The backup {target} cannot be written: {error.strerror}.") from error
    return copied


@contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """Create an empty file in the directory of `target`, readable only by its owner; remove it on exit."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        yield draft
    finally:
        for file in (draft, Path(f"{draft}-journal")):
            file.unlink(missing_ok=True)


def _copy(source: Path, draft: Path, version: str) -> None:
    try:
        with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as connection, _paced(connection, draft):
            connection.execute("VACUUM INTO ?", (str(draft),))
    except sqlite3.Error as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Unusable(f"The database {source} is damaged and cannot be copied: {error}.") from error
        # The message does not say which of the two files failed.
        raise Unusable(f"The database {source} cannot be copied to {draft.parent}: {error}.") from error
    if version >= _INDEX_VERSION:  # before, the words were removed before a deletion returned
        _remove_deleted_words(source, draft)


def _remove_deleted_words(source: Path, draft: Path) -> None:
    """Raises Unusable if the draft cannot be changed."""
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            (user_version,) = connection.execute("PRAGMA user_version").fetchone()
            if Remnants(user_version) is Remnants.ANYWHERE:
                connection.execute("PRAGMA secure_delete = ON")  # overwrites the pages of the old index
                connection.execute("PRAGMA journal_mode = OFF")  # would contain them; a draft is never rolled back
                connection.execute("BEGIN")
                recreate_index(connection)
                connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise Unusable(f"Deleted words cannot be removed from the copy of the database {source}: {error}.") from error


@contextmanager
def _paced(connection: sqlite3.Connection, draft: Path) -> Iterator[None]:
    """Write the draft to disk in steps with pauses of the same length.

    Otherwise the system would write much of it at once, and commits of the service would wait for that.
    """
    file = os.open(draft, os.O_RDWR | os.O_CLOEXEC)
    synced, working_since = 0, time.monotonic()
    failure: OSError | None = None

    def sync_and_pause() -> bool:
        """Return whether to abort the copy."""
        nonlocal synced, working_since, failure
        try:
            size = os.fstat(file).st_size
            if size - synced >= STEP:
                os.fdatasync(file)
                time.sleep(time.monotonic() - working_since)
                synced, working_since = size, time.monotonic()
        except OSError as error:
            failure = error
        return failure is not None

    connection.set_progress_handler(sync_and_pause, 100)  # some 25 rows
    try:
        yield
    except sqlite3.Error as error:
        if failure is not None:
            raise failure from None
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:  # by a signal, whose exception SQLite has dropped
            raise KeyboardInterrupt from None
        raise
    finally:
        os.close(file)


def _verify(source: Path, draft: Path) -> Copied:
    """Raises Unusable if the copy is damaged or inconsistent."""
    try:
        with closing(sqlite3.connect(draft)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
            turns, summarized = connection.execute(_ROWS).fetchone()
    except sqlite3.Error as error:
        raise Unusable(f"The copy of the database {source} cannot be verified: {error}.") from error
    if verdict != "ok" or orphan is not None or turns != summarized:
        raise Unusable(f"The copy of the database {source} is inconsistent, so the database may be damaged.")
    return Copied(turns, draft.stat().st_size)


def _publish(draft: Path, target: Path) -> None:
    _sync(draft)
    try:
        os.link(draft, target)  # in contrast to a rename, never replaces a file
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # the file system has no links
        draft.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _exists(target: Path) -> Unusable:
    return Unusable(f"The file {target} exists, and a backup overwrites nothing; choose another name.")
