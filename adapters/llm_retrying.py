"""LLM that retries calls that are safe to repeat."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import SystemRandom
from typing import Final

import anyio

from application.ports.llm import AS_CONFIGURED, LLM, LLMError, Reply, ReplyOptions
from domain.conversation import Message

_RANDOM: Final = SystemRandom()


class RetryingLLM(LLM):
    """Wraps another LLM: retries a call that failed with a repeatable error before its reply began.

    Later errors pass through: deltas that were handed on cannot be taken back. All times are in seconds.

    Args:
        backoff: Before the next attempt, with a jitter of half of it, if the service does not name a time.
        max_retry_after: The longest pause asked for by the service that is kept here. The caller is told longer ones.
        retry_budget: From the start of the call to the start of its last attempt.
        random: Returns a float in [0, 1) for the jitter.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        max_attempts: int = 2,
        backoff: float = 0.5,
        max_retry_after: float = 5,
        retry_budget: float = 10,
        random: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._llm = llm
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._max_retry_after = max_retry_after
        self._retry_budget = retry_budget
        self._random = random

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        async with AsyncExitStack() as stack:
            yield await self._enter_reply(stack, messages, max_tokens, options)

    async def _enter_reply(
        self, stack: AsyncExitStack, messages: Sequence[Message], max_tokens: int | None, options: ReplyOptions
    ) -> Reply:
        deadline = anyio.current_time() + self._retry_budget
        attempt = 1
        while True:
            try:
                return await stack.enter_async_context(self._llm.reply(messages, max_tokens, options))
            except LLMError as error:
                error.attempts = attempt
                pause = self._pause(error)
                final = attempt == self._max_attempts or not error.repeatable
                too_long = (error.retry_after or 0) > self._max_retry_after or anyio.current_time() + pause > deadline
                if final or too_long:
                    raise
            await anyio.sleep(pause)
            attempt += 1

    def _pause(self, error: LLMError) -> float:
        jitter = self._backoff * (0.5 + self._random())
        return jitter if error.retry_after is None else error.retry_after + jitter / 10
