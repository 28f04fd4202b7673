"""LLM that asks a second time where the first cost nothing."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import SystemRandom
from typing import Final

import anyio

from application.ports.llm import LLM, LLMError, Reply
from domain.conversation import Message

MAX_ATTEMPTS: Final = 2

PAUSE: Final = 0.5
"""Seconds before the next attempt, give or take half of it, where the service names no time."""

MAX_PAUSE: Final = 5.0
"""Seconds that a caller is kept waiting for a service that asked for a pause; a longer one is the caller's to wait."""

BUDGET: Final = 10.0
"""Seconds after the call within which its last attempt begins."""

_RANDOM: Final = SystemRandom()


class RetryingLLM(LLM):
    """Wraps another: repeats a call that failed before the answer began, if its error is repeatable.

    Errors once the answer has begun pass through: text that was given can not be taken back.
    """

    def __init__(self, llm: LLM, *, random: Callable[[], float] = _RANDOM.random) -> None:
        self._llm = llm
        self._random = random

    @asynccontextmanager
    async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
        async with AsyncExitStack() as stack:
            yield await self._ask(stack, messages)

    async def _ask(self, stack: AsyncExitStack, messages: Sequence[Message]) -> Reply:
        deadline = anyio.current_time() + BUDGET
        attempt = 1
        while True:
            try:
                return await stack.enter_async_context(self._llm.reply(messages))
            except LLMError as error:
                error.attempts = attempt
                pause = self._pause(error)
                final = attempt == MAX_ATTEMPTS or not error.repeatable
                too_long = (error.retry_after or 0) > MAX_PAUSE or anyio.current_time() + pause > deadline
                if final or too_long:
                    raise
            await anyio.sleep(pause)
            attempt += 1

    def _pause(self, error: LLMError) -> float:
        jitter = PAUSE * (0.5 + self._random())
        return jitter if error.retry_after is None else error.retry_after + jitter / 10
