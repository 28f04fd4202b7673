"""`smart-chatbot copy --from URL --to URL`: copy a database to another, empty one."""

import time
from concurrent.futures import Future, wait
from typing import Final

from adapters.daemon_threads import DaemonThreadPool
from domain.errors import Unusable
from entrypoints.configuration.urls import valid_database_url
from entrypoints.settings import Settings

STOP_TIME: Final = 1.0
"""Seconds after a signal that the current batch may take, and the rollback. Then the process ends without them."""

_INTERVAL: Final = 0.1
"""Seconds between two looks whether a signal has arrived."""


class InterruptibleCopy:
    """Copies everything from one database to another, in a thread, because a database may keep its caller waiting.

    A URL that is None is the configured one.
    """

    def __init__(self, settings: Settings, source: str | None, target: str | None) -> None:
        self._source = _url(settings, "--from", source)
        self._target = _url(settings, "--to", target)
        self._interrupted_at: float | None = None
        self._committing = False

    def run(self) -> str:
        """Copy; return a sentence with the outcome.

        Raises:
            Unusable: The databases cannot be copied, or `interrupt` was called before the commit.
        """
        if self._source == self._target:
            raise Unusable("The databases to copy from and to are the same.")
        copying: Future[str] = DaemonThreadPool(max_threads=1, name="copy").submit(self._copy)
        while not wait([copying], timeout=_INTERVAL).done:
            since = self._interrupted_at
            if since is not None and time.monotonic() - since > STOP_TIME and not self._committing:
                raise _interrupted()  # `_before_commit` will not let it commit
        return copying.result()

    def interrupt(self, *_: object) -> None:
        """End the copy, unless it is being committed: its outcome would not be known. Can be a signal handler."""
        if self._interrupted_at is None:
            self._interrupted_at = time.monotonic()

    def _copy(self) -> str:
        from adapters.sql.copying import copy_database
        from adapters.sql.databases import database_at

        target = database_at(self._target)
        copied = copy_database(database_at(self._source), target, self._before_batch, self._before_commit)
        numbers = (
            _number(copied.turns, "turn", "turns"),
            _number(copied.conversations, "conversation", "conversations"),
            _number(copied.users, "user", "users"),
            _number(copied.memories, "memory", "memories"),
        )
        outbox = _number(copied.outbox, "outbox entry", "outbox entries")
        return f"Copied {', '.join(numbers)} and {outbox} to the database {target.name}."

    def _before_batch(self) -> None:
        if self._interrupted_at is not None:
            raise _interrupted()

    def _before_commit(self) -> None:
        self._committing = True  # first: a signal from now on does not end `run`
        if self._interrupted_at is not None:
            self._committing = False
            raise _interrupted()


def _interrupted() -> Unusable:
    return Unusable("The copy was interrupted; nothing was copied.")


def _url(settings: Settings, option: str, value: str | None) -> str:
    if value is None:
        return settings.database
    try:
        return valid_database_url(value)
    except ValueError as error:
        raise Unusable(f"{option}: {error}") from None


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
