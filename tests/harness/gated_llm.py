"""An LLM that fails, blocks or crashes at a chosen step."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from application.ports.llm import LLM, Reply
from domain.conversation import Message, Usage


class GatedLLM(LLM):
    """Passes each step of a reply through a gate: the call, each read, the end and the exit."""

    def __init__(self, llm: LLM, gate: Callable[[str], Awaitable[None]]) -> None:
        self._llm = llm
        self._gate = gate

    @asynccontextmanager
    async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
        await self._gate("reply")
        async with self._llm.reply(messages) as reply:
            await self._gate("reply done")
            yield _GatedReply(reply, self._gate)
            await self._gate("leave")


class _GatedReply(Reply):
    def __init__(self, reply: Reply, gate: Callable[[str], Awaitable[None]]) -> None:
        self._reply = reply
        self._gate = gate
        self.finish_reason = ""
        self.usage: Usage | None = None

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        async for texts in self._reply:
            await self._gate("texts")
            yield texts
        await self._gate("texts done")
        self.finish_reason, self.usage = self._reply.finish_reason, self._reply.usage
