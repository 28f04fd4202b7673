"""Leases within one process: a queue for each busy conversation."""

import asyncio
from typing import NamedTuple

from application.ports.conversation_leases import ConversationLeases, Lease
from domain.conversation import ConversationId, TurnId, UserId
from domain.errors import TurnInProgress

_Key = tuple[UserId, ConversationId]


class _Waiter(NamedTuple):
    turn_id: TurnId
    first: bool
    admitted: "asyncio.Future[None]"


class _Conversation:
    """A busy conversation. The queue is a list, because nearly all are empty and an empty deque takes 0.7 kB."""

    __slots__ = ("holder", "queue")

    def __init__(self, holder: TurnId) -> None:
        self.holder = holder
        self.queue: list[_Waiter] = []

    def add(self, waiter: _Waiter) -> None:
        place = sum(other.first for other in self.queue) if waiter.first else len(self.queue)
        self.queue.insert(place, waiter)


class _Lease(Lease):
    def __init__(self, leases: "ConversationLeasesInProcess", key: _Key) -> None:
        self._leases = leases
        self._key = key
        self._released = False

    async def release(self, *, turn_ended: bool = False) -> None:
        if not self._released:
            self._released = True
            self._leases.admit_next(self._key)


class ConversationLeasesInProcess(ConversationLeases):
    """Runs one turn at a time per conversation, within one process. At most `max_waiting` callers queue for each."""

    def __init__(self, *, max_waiting: int = 4) -> None:
        self._max_waiting = max_waiting
        self._busy: dict[_Key, _Conversation] = {}

    async def acquire(
        self,
        turn_id: TurnId,
        user_id: UserId,
        conversation_id: ConversationId,
        *,
        wait: float,
        first: bool = False,
        tentative: bool = False,
    ) -> Lease:
        key = (user_id, conversation_id)
        conversation = self._busy.get(key)
        if conversation is None:
            self._busy[key] = _Conversation(turn_id)
            return _Lease(self, key)
        if not wait or len(conversation.queue) >= self._max_waiting:
            raise TurnInProgress(retry_after=1)
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(turn_id, first, admitted)
        conversation.add(waiter)
        try:
            async with asyncio.timeout(wait):
                await admitted
        except (TimeoutError, asyncio.CancelledError) as error:
            if admitted.done() and not admitted.cancelled():
                self.admit_next(key)
            elif waiter in conversation.queue:  # it is not if it was skipped between its cancellation and this line
                conversation.queue.remove(waiter)
            if isinstance(error, TimeoutError):
                raise TurnInProgress(retry_after=1) from None
            raise
        return _Lease(self, key)

    async def holder(self, user_id: UserId, conversation_id: ConversationId) -> TurnId | None:
        conversation = self._busy.get((user_id, conversation_id))
        return None if conversation is None else conversation.holder

    def admit_next(self, key: _Key) -> None:
        """Give the conversation to the caller that has waited longest."""
        conversation = self._busy[key]
        while conversation.queue:
            waiter = conversation.queue.pop(0)
            if not waiter.admitted.done():
                conversation.holder = waiter.turn_id
                waiter.admitted.set_result(None)
                return
        del self._busy[key]
