"""Leases of one process: a queue for each conversation that is busy."""

import asyncio

from application.ports.conversation_leases import ConversationLeases, Lease
from domain.conversation import ConversationId, UserId
from domain.errors import TurnInProgress

MAX_WAITING = 4
"""How many turns may wait in one conversation."""

_Key = tuple[UserId, ConversationId]


class _Lease(Lease):
    def __init__(self, leases: "ConversationLeasesInProcess", key: _Key) -> None:
        self._leases = leases
        self._key = key
        self._released = False

    async def release(self) -> None:
        if not self._released:
            self._released = True
            self._leases.pass_on(self._key)


class ConversationLeasesInProcess(ConversationLeases):
    """For running one turn at a time in a conversation, within one process."""

    def __init__(self) -> None:
        # Lists, since nearly all are empty, and an empty deque takes 0.7 kB.
        self._queues: dict[_Key, list[asyncio.Future[None]]] = {}

    async def acquire(self, user_id: UserId, conversation_id: ConversationId, *, wait: float) -> Lease:
        key = (user_id, conversation_id)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = []
            return _Lease(self, key)
        if not wait or len(queue) >= MAX_WAITING:
            raise TurnInProgress(retry_after=1)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        try:
            async with asyncio.timeout(wait):
                await place
        except (TimeoutError, asyncio.CancelledError) as left:
            if place.done() and not place.cancelled():
                self.pass_on(key)
            elif place in queue:  # not where it was passed over between being cancelled and getting here
                queue.remove(place)
            if isinstance(left, TimeoutError):
                raise TurnInProgress(retry_after=1) from None
            raise
        return _Lease(self, key)

    def pass_on(self, key: _Key) -> None:
        """Give the conversation to whoever has waited longest."""
        queue = self._queues[key]
        while queue:
            place = queue.pop(0)
            if not place.done():
                place.set_result(None)
                return
        del self._queues[key]
