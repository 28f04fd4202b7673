"""One thing at a time for each user."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from domain.conversation import UserId


class UserLocks:
    """A lock for each user for whom there is something to do; nothing is kept of anyone else."""

    def __init__(self) -> None:
        self._locks: dict[UserId, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def alone_with(self, user_id: UserId, *, wait: float | None = None) -> AsyncIterator[None]:
        """Do something inside while nothing else is done for the user: first come, first served.

        Raises:
            TimeoutError: it was not one's turn within `wait` seconds.
        """
        lock, users = self._locks.get(user_id, (anyio.Lock(), 0))
        self._locks[user_id] = lock, users + 1
        try:
            with anyio.fail_after(wait):
                await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[user_id]
            if users > 1:
                self._locks[user_id] = lock, users - 1
            else:
                del self._locks[user_id]

    def __len__(self) -> int:
        return len(self._locks)
