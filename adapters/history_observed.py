"""A history and outbox whose calls are reported to the observer."""

from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import anyio

from application.ports.history import ConversationHistory, ReplyAddition, TurnBegin, TurnEnd
from application.ports.memory_outbox import Claim, ForgetUser, MemoryOutbox, OutboxCounts, OutboxJob, RememberTurn
from application.ports.turn_observer import StoreCalled, TurnObserver
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, UserId
from domain.idempotency import IdempotencyKey
from domain.paging import Page
from domain.resent import SentMessage

T = TypeVar("T")


class Store(ConversationHistory, MemoryOutbox, Protocol):
    """Turns and the memory outbox in one store."""


class ObservedHistory(ConversationHistory, MemoryOutbox):
    """Wraps a store, and reports the duration and outcome of each call as `StoreCalled`."""

    def __init__(self, store: Store, observer: TurnObserver) -> None:
        self._store = store
        self._observer = observer

    async def _call(self, operation: str, call: Coroutine[Any, Any, T]) -> T:
        started = anyio.current_time()
        error: Exception | None = None
        try:
            return await call
        except Exception as raised:
            error = raised
            raise
        finally:
            self._observer.observe(StoreCalled(operation, anyio.current_time() - started, error))

    async def begin(self, begin: TurnBegin) -> Turn:
        return await self._call("begin", self._store.begin(begin))

    async def find(self, key: IdempotencyKey) -> Turn | None:
        return await self._call("find", self._store.find(key))

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        return await self._call("save_progress", self._store.save_progress(additions, lease))

    async def finish(self, end: TurnEnd) -> Turn | None:
        return await self._call("finish", self._store.finish(end))

    async def finish_abandoned(self) -> int:
        return await self._call("finish_abandoned", self._store.finish_abandoned())

    async def get(self, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn:
        return await self._call("get", self._store.get(turn_id, owner, prefix))

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        return await self._call("latest", self._store.latest(user_id, conversation_id, limit))

    async def messages(
        self, user_id: UserId, conversation_id: ConversationId, limit: int
    ) -> Sequence[tuple[TurnId, SentMessage]]:
        return await self._call("messages", self._store.messages(user_id, conversation_id, limit))

    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        return await self._call("page", self._store.page(user_id, conversation_id, limit, cursor))

    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        return await self._call("conversations", self._store.conversations(user_id, limit, cursor))

    async def set_title(self, user_id: UserId, conversation_id: ConversationId, title: str | None) -> Conversation:
        return await self._call("set_title", self._store.set_title(user_id, conversation_id, title))

    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        return await self._call("clear", self._store.clear(user_id, conversation_id))

    async def check(self) -> None:
        await self._call("check", self._store.check())

    async def probe_write(self) -> None:
        await self._call("probe_write", self._store.probe_write())

    async def claim(self, limit: int, lease: timedelta) -> Sequence[OutboxJob]:
        return await self._call("claim", self._store.claim(limit, lease))

    async def claim_user(self, user_id: UserId, lease: timedelta) -> Claim | None:
        return await self._call("claim_user", self._store.claim_user(user_id, lease))

    async def release(self, claim: Claim, *, unsettled_for: timedelta | None = None) -> None:
        await self._call("release", self._store.release(claim, unsettled_for=unsettled_for))

    async def settle(self, job: RememberTurn) -> None:
        await self._call("settle", self._store.settle(job))

    async def postpone(
        self, job: OutboxJob, delay: timedelta, *, unsettled_for: timedelta | None = None, counts: bool = True
    ) -> None:
        await self._call("postpone", self._store.postpone(job, delay, unsettled_for=unsettled_for, counts=counts))

    async def give_up(self, job: RememberTurn, *, unsettled_for: timedelta | None = None) -> None:
        await self._call("give_up", self._store.give_up(job, unsettled_for=unsettled_for))

    async def begin_forgetting(self, user_id: UserId) -> None:
        await self._call("begin_forgetting", self._store.begin_forgetting(user_id))

    async def end_forgetting(self, job: ForgetUser) -> None:
        await self._call("end_forgetting", self._store.end_forgetting(job))

    async def forget_attempts(self, user_id: UserId) -> int | None:
        return await self._call("forget_attempts", self._store.forget_attempts(user_id))

    async def counts(self) -> OutboxCounts:
        return await self._call("counts", self._store.counts())
