"""Adapters for tests: small, scriptable, and as interruptible as the real ones."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

from adapters.memory_in_memory import MemoryInMemory
from application.ports.llm import AS_CONFIGURED, LLM, LLMError, Reply, ReplyOptions
from domain.conversation import Message, Turn, TurnId, Usage, UserId
from domain.errors import OutputLimit
from domain.memory import DEFAULT_IMPORTANCE, Memory, Recalled

USAGE = Usage(10, 4)


@dataclass(frozen=True)
class ScriptedReply:
    """The script of one call. Deltas are sent one at a time, `pause` seconds apart."""

    deltas: Sequence[str] = ("Hello", ", ", "world", "!")
    finish_reason: str = "stop"
    usage: Usage | None = USAGE
    refusal: LLMError | None = None
    """Raised instead of accepting the request."""
    failure: LLMError | OutputLimit | None = None
    """Raised after the deltas."""
    hangs: bool = False
    """Stalls after the deltas, until it is cancelled."""
    pause: float = 0


class ScriptedLLM(LLM):
    """Replies as scripted, one script per call. The last script is used for all later calls."""

    def __init__(self, *scripts: ScriptedReply) -> None:
        self.scripts = scripts or (ScriptedReply(),)
        self.asked: list[Sequence[Message]] = []
        """The messages of each call."""
        self.max_tokens: list[int | None] = []
        """The limit of the reply of each call, if lowered."""
        self.options: list[ReplyOptions] = []
        """What the client of each call has chosen."""
        self.open = 0
        """Number of calls in progress."""

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(messages)
        self.max_tokens.append(max_tokens)
        self.options.append(options)
        self.open += 1
        try:
            await anyio.lowlevel.checkpoint()
            if script.refusal:
                raise script.refusal
            yield _ScriptedStream(script)
        finally:
            self.open -= 1


class _ScriptedStream(Reply):
    def __init__(self, script: ScriptedReply) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        script = self._script
        for delta in script.deltas:
            await anyio.sleep(script.pause)
            yield [delta]
        await anyio.lowlevel.checkpoint()
        if script.hangs:
            await anyio.sleep_forever()
        if script.failure:
            raise script.failure
        self.finish_reason, self.usage = script.finish_reason, script.usage


class LearningMemory(MemoryInMemory):
    """Stores the user's message of each turn as a fact, verbatim.

    `plans` holds the errors that the next calls of a method raise before they take effect, one per call. The next
    `uncertain` calls of `forget_all` return False. Calls for a user in `held` wait for that event first. `remember`
    waits for `gate` after it has taken effect, and `recall` before it returns.
    """

    extracts_from_turns = True

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(now)
        self.plans: dict[str, list[Exception]] = {}
        self.calls: list[str] = []
        self.held: dict[UserId, anyio.Event] = {}
        self.gate = anyio.Event()
        self.gate.set()
        self.uncertain = 0
        self._remembered: set[TurnId] = set()

    async def _before(self, method: str, user_id: UserId) -> None:
        self.calls.append(method)
        if user_id in self.held:
            await self.held[user_id].wait()
        if planned := self.plans.get(method):
            raise planned.pop(0)

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        await self._before("store", user_id)
        return await super().store(user_id, fact, importance)

    async def remember(self, turn: Turn) -> None:
        await self._before("remember", turn.user_id)
        if turn.id not in self._remembered:
            self._remembered.add(turn.id)
            await super().store(turn.user_id, turn.user_message, DEFAULT_IMPORTANCE)
        await self.gate.wait()

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        await self._before("recall", user_id)
        await self.gate.wait()
        return await super().recall(user_id, query, limit)

    async def forget_all(self, user_id: UserId) -> bool:
        await self._before("forget_all", user_id)
        certain = not self.uncertain
        self.uncertain = max(0, self.uncertain - 1)
        return await super().forget_all(user_id) and certain
