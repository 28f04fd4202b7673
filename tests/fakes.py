"""Adapters for tests: small, scriptable, and as interruptible as the real ones."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from application.ports.llm import LLM, LLMError, Reply, Usage
from domain.conversation import Message
from domain.errors import OutputLimit

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
