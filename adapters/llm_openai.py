"""LLM on OpenAI's SDK: OpenAI itself and the many servers that speak like it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import openai
import orjson

from adapters.openai_api import errors
from adapters.openai_api.connection import Answer
from adapters.openai_api.parameters import Parameters
from adapters.openai_api.reply import OpenAIReply
from adapters.openai_api.service import ModelService
from application.ports.llm import LLM, LLMError, LLMInvalid, LLMUnreachable, Reply
from domain.conversation import Message

OPENAI: Final = "https://api.openai.com/v1"


class LLMOpenAI(LLM):
    """Calls of one model. All limits are in seconds.

    `first_byte_timeout` runs from the request to the answer's head, connecting included; `idle_timeout` between two
    reads from then on. `max_connections` calls run at once; more wait for `pool_timeout`, and are then unreachable and
    repeatable, since nothing was sent.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        model: str,
        temperature: float,
        max_tokens: int,
        connect_timeout: float = 5,
        first_byte_timeout: float = 30,
        idle_timeout: float = 60,
        pool_timeout: float = 2,
        max_connections: int = 1200,
    ) -> None:
        self._service = ModelService(
            api_key=api_key,
            base_url=base_url or OPENAI,
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
        )
        self._model = model
        self._parameters = Parameters(temperature=temperature, max_tokens=max_tokens)
        self._first_byte_timeout = first_byte_timeout
        self._idle_timeout = idle_timeout
        self._pool_timeout = pool_timeout
        self._slots = asyncio.Semaphore(max_connections)

    async def close(self) -> None:
        """Close the connections. No call may be running or follow."""
        self._service.close()

    @asynccontextmanager
    async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
        await self._take_slot()
        try:
            answer = await self._ask(messages)
            try:
                _expect_stream(answer)
                with OpenAIReply(answer, self._idle_timeout) as reply:
                    yield reply
            finally:
                answer.release()  # which closes the connection, unless the answer was read to its end
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._slots.acquire()
        except TimeoutError:
            busy = LLMUnreachable("All connections to the model's service are in use.")
            busy.repeatable = True
            raise busy from None

    async def _ask(self, messages: Sequence[Message]) -> Answer:
        texts = [{"role": message.role.value, "content": message.text} for message in messages]
        failure: LLMError | None = None
        while failure is None:
            sent = self._parameters.current
            content = orjson.dumps({"model": self._model, "messages": texts, "stream": True, **sent})
            try:
                async with asyncio.timeout(self._first_byte_timeout):
                    return await self._service.ask(content)
            except openai.APIStatusError as refusal:
                if not self._parameters.learn(refusal, sent):
                    failure = errors.of_status(refusal)
            except errors.FOREIGN as error:
                failure = errors.of_exception(error, streaming=False)
        raise failure  # outside of the handlers: what the service wrote must not hang on it as its context


def _expect_stream(answer: Answer) -> None:
    kind = answer.header("content-type").partition(";")[0].strip().lower()
    if kind != "text/event-stream" or answer.header("content-encoding") not in ("", "identity"):
        raise LLMInvalid("The model's service answered with something else than a stream of events.")
