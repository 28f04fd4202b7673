"""Leases within one process: a queue for each busy conversation."""

import asyncio

from application.ports.conversation_leases import ConversationLeases, Lease
from domain.conversation import ConversationId, UserId
from domain.errors import TurnInProgress

_Key = tuple[UserId, ConversationId]


class _Lease(Lease):
    def __init__(self, leases: "ConversationLeasesInProcess", key: _Key) -> None:
        self._leases = leases
        self._key = key
        self._released = False

    async def release(self) -> None:
        if not self._released:
            self._released = True
            self._leases.admit_next(self._key)


class ConversationLeasesInProcess(ConversationLeases):
    """Runs one turn at a time per conversation, within one process. At most `max_waiting` callers queue for each."""

    def __init__(self, *, max_waiting: int = 4) -> None:
        self._max_waiting = max_waiting
        # Lists, because nearly all of them are empty and an empty deque takes 0.7 kB.
        self._queues: dict[_Key, list[asyncio.Future[None]]] = {}

    async def acquire(self, user_id: UserId, conversation_id: ConversationId, *, wait: float) -> Lease:
        key = (user_id, conversation_id)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = []
            return _Lease(self, key)
        if not wait or len(queue) >= self._max_waiting:
            raise TurnInProgress(retry_after=1)
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(admitted)
        try:
            async with asyncio.timeout(wait):
                await admitted
        except (TimeoutError, asyncio.CancelledError) as error:
            if admitted.done() and not admitted.cancelled():
                self.admit_next(key)
            elif admitted in queue:  # it is not if it was skipped between its cancellation and this line
                queue.remove(admitted)
            if isinstance(error, TimeoutError):
                raise TurnInProgress(retry_after=1) from None
            raise
        return _Lease(self, key)

    def admit_next(self, key: _Key) -> None:
        """Give the conversation to the caller that has waited longest."""
        queue = self._queues[key]
        while queue:
            admitted = queue.pop(0)
            if not admitted.done():
                admitted.set_result(None)
                return
        del self._queues[key]
