"""A history that fails at will."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from application.ports.history import ConversationHistory, HistoryUnavailable
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, UserId
from domain.paging import Page

T = TypeVar("T")

Gate = Callable[[str], Awaitable[None]]
"""Is told what is about to happen, `begin`, or has just happened, `begin done`; may raise, wait, or do something."""


class GatedHistory(ConversationHistory):
    """Another history behind a gate, which every call passes before its effect and after it."""

    def __init__(self, history: ConversationHistory, gate: Gate) -> None:
        self._history = history
        self._gate = gate

    async def begin(self, turn: Turn) -> None:
        await self._through("begin", lambda: self._history.begin(turn))

    async def save_progress(self, replies: Mapping[TurnId, str]) -> None:
        await self._through("save_progress", lambda: self._history.save_progress(replies))

    async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
        return await self._through("finish", lambda: self._history.finish(turn, remember_at=remember_at))

    async def finish_abandoned(self) -> int:
        return await self._through("finish_abandoned", self._history.finish_abandoned)

    async def get(self, turn_id: TurnId) -> Turn:
        return await self._through("get", lambda: self._history.get(turn_id))

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        return await self._through("latest", lambda: self._history.latest(user_id, conversation_id, limit))

    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        return await self._through("page", lambda: self._history.page(user_id, conversation_id, limit, cursor))

    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        return await self._through("conversations", lambda: self._history.conversations(user_id, limit, cursor))

    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        return await self._through("clear", lambda: self._history.clear(user_id, conversation_id))

    async def check(self) -> None:
        await self._through("check", self._history.check)

    async def _through(self, point: str, effect: Callable[[], Awaitable[T]]) -> T:
        await self._gate(point)
        result = await effect()
        await self._gate(f"{point} done")
        return result


class FailNext:
    """A gate that has calls fail as long as there are failures left for them; counts all calls."""

    def __init__(self, **failures: int) -> None:
        self.failures = Counter(failures)
        self.calls = Counter[str]()

    async def __call__(self, point: str) -> None:
        self.calls[point] += 1
        if self.failures[point]:
            self.failures[point] -= 1
            raise HistoryUnavailable(retry_after=2)
