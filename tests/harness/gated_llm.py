"""An LLM that blocks or fails at a chosen step of a reply."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from application.ports.llm import AS_CONFIGURED, LLM, Reply, ReplyOptions
from domain.conversation import Message, Usage


class GatedLLM(LLM):
    """Wraps another LLM and awaits `gate` with the name of each step, which may block or raise.

    The steps: `reply` before the call, `reply done`, `texts` after each batch of deltas, `texts done` after the last
    one, and `leave` before the context exits.
    """

    def __init__(self, llm: LLM, gate: Callable[[str], Awaitable[None]]) -> None:
        self._llm = llm
        self._gate = gate

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        await self._gate("reply")
        async with self._llm.reply(messages, max_tokens, options) as reply:
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
        async for deltas in self._reply:
            await self._gate("texts")
            yield deltas
        await self._gate("texts done")
        self.finish_reason, self.usage = self._reply.finish_reason, self._reply.usage
