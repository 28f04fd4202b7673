"""Adapters for tests: small, scriptable, and as interruptible as the real ones."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

from adapters.memory_in_memory import MemoryInMemory
from application.ports.llm import LLM, LLMError, Reply, Usage
from domain.conversation import Message, Turn, TurnId, UserId
from domain.errors import MemoryNotFound, OutputLimit
from domain.memory import DEFAULT_IMPORTANCE, Memory, MemoryId, Recalled

USAGE = Usage(10, 4)


@dataclass(frozen=True)
class ScriptedReply:
    """How one call goes. Texts come one at a time, `pause` seconds apart."""

    texts: Sequence[str] = ("Hello", ", ", "world", "!")
    finish_reason: str = "stop"
    usage: Usage | None = USAGE
    refusal: LLMError | None = None
    """Raised instead of answering."""
    failure: LLMError | OutputLimit | None = None
    """Raised behind the texts."""
    hangs: bool = False
    """Says nothing more behind the texts, until it is cancelled."""
    pause: float = 0


class ScriptedLLM(LLM):
    """Replies as scripted, call by call; the last script serves all later calls."""

    def __init__(self, *scripts: ScriptedReply) -> None:
        self.scripts = scripts or (ScriptedReply(),)
        self.asked: list[Sequence[Message]] = []
        """The messages of each call."""
        self.open = 0
        """Calls that run now."""

    @asynccontextmanager
    async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(messages)
        self.open += 1
        try:
            await anyio.lowlevel.checkpoint()
            if script.refusal:
                raise script.refusal
            yield _Playing(script)
        finally:
            self.open -= 1


class _Playing(Reply):
    def __init__(self, script: ScriptedReply) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        script = self._script
        for text in script.texts:
            await anyio.sleep(script.pause)
            yield [text]
        await anyio.lowlevel.checkpoint()
        if script.hangs:
            await anyio.sleep_forever()
        if script.failure:
            raise script.failure
        self.finish_reason, self.usage = script.finish_reason, script.usage


class LearningMemory(MemoryInMemory):
    """Remembers what the user said in a turn, word by word.

    `plans` are errors that the next calls raise instead of doing anything, each once; `gate` holds calls up, once they
    have done their work, until it is opened.
    """

    learns = True

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(now)
        self.plans: dict[str, list[Exception]] = {}
        self.calls: list[str] = []
        self.gate = anyio.Event()
        self.gate.set()
        self._of_turns: dict[TurnId, MemoryId] = {}

    async def _play(self, method: str) -> None:
        self.calls.append(method)
        if planned := self.plans.get(method):
            raise planned.pop(0)

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        await self._play("store")
        return await super().store(user_id, fact, importance)

    async def remember(self, turn: Turn) -> None:
        await self._play("remember")
        if turn.id not in self._of_turns:
            memory = await super().store(turn.user_id, turn.user_message, DEFAULT_IMPORTANCE)
            self._of_turns[turn.id] = memory.id
        await self.gate.wait()

    async def unremember(self, turn: Turn) -> None:
        await self._play("unremember")
        memory_id = self._of_turns.pop(turn.id, None)
        if memory_id is not None:
            with suppress(MemoryNotFound):
                await self.forget(turn.user_id, memory_id)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        await self._play("recall")
        await self.gate.wait()
        return await super().recall(user_id, query, limit)

    async def forget_all(self, user_id: UserId) -> bool:
        await self._play("forget_all")
        return await super().forget_all(user_id)
