"""LLM on OpenAI's SDK: OpenAI itself and the many servers that speak like it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx2
import openai
import orjson

# The HTTP client imports it where it is first used, which would be on the event loop.
from httpcore2 import default_ssl_context

from adapters.openai_api import errors
from adapters.openai_api.parameters import Parameters
from adapters.openai_api.reply import OpenAIReply
from adapters.openai_api.stream import LIMIT
from application.ports.llm import LLM, LLMError, LLMInvalid, LLMUnreachable, Reply
from domain.conversation import Message

OPENAI: Final = "https://api.openai.com/v1"

KEEP_ALIVE: Final = 3.0
"""Seconds that an idle connection is kept: less than the five after which many servers close theirs, since a request
that meets the closing end is lost without a word."""

_STREAM: Final[bool] = True
"""Hands the response over before its body has come; as a response, since that is what it is cast to."""

_HEADERS: Final = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


class LLMOpenAI(LLM):
    """Calls of one model. All limits are in seconds.

    `first_byte_timeout` runs from the request to the answer's head, connecting included; `idle_timeout` between two
    reads from then on. The transport starts the latter with the request, so that the shorter of both ends the wait
    for the head. `max_connections` calls run at once; more wait for `pool_timeout`, and are then unreachable and
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
        url = base_url or OPENAI
        # The transport's own limit on waiting for a connection would cut connecting short too: it counts both as one.
        limits = httpx2.Limits(
            max_connections=max_connections, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE
        )
        timeout = httpx2.Timeout(connect=connect_timeout, read=idle_timeout, write=idle_timeout, pool=None)
        http = openai.DefaultAioHttpClient(
            verify=_trusted(url),
            follow_redirects=False,
            limits=limits,
            timeout=timeout,
            event_hooks={"response": [_cap_refusals]},
        )
        self._client = openai.AsyncOpenAI(
            api_key=api_key, base_url=url, http_client=http, timeout=timeout, max_retries=0
        )
        self._model = model
        self._parameters = Parameters(temperature=temperature, max_tokens=max_tokens)
        self._first_byte_timeout = first_byte_timeout
        self._pool_timeout = pool_timeout
        self._slots = asyncio.Semaphore(max_connections)

    async def close(self) -> None:
        """Close the connections. No call may be running or follow."""
        await self._client.close()

    @asynccontextmanager
    async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
        await self._take_slot()
        try:
            async with AsyncExitStack() as stack:
                response = await self._ask(messages)
                stack.push_async_callback(response.aclose)
                _expect_stream(response)
                async with aclosing(response.aiter_raw()) as reads:
                    yield OpenAIReply(reads)
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._slots.acquire()
        except TimeoutError:
            busy = LLMUnreachable("All connections to the model's service are in use.")
            busy.repeatable = True
            raise busy from None

    async def _post(self, content: bytes) -> httpx2.Response:
        # Below the SDK's own method for this path, which walks through the messages by their types and loads a module
        # for each of its API's types: with a long context that takes longer than all else together.
        response = await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=content,
            options={"headers": _HEADERS},
            stream=_STREAM,
            stream_cls=openai.AsyncStream[object],
        )
        assert isinstance(response, httpx2.Response), "what it was asked to be cast to"
        return response

    async def _ask(self, messages: Sequence[Message]) -> httpx2.Response:
        texts = [{"role": message.role.value, "content": message.text} for message in messages]
        failure: LLMError | None = None
        while failure is None:
            sent = self._parameters.current
            content = orjson.dumps({"model": self._model, "messages": texts, "stream": True, **sent})
            try:
                async with asyncio.timeout(self._first_byte_timeout):
                    return await self._post(content)
            except openai.APIStatusError as refusal:
                if not self._parameters.learn(refusal, sent):
                    failure = errors.of_status(refusal)
            except errors.FOREIGN as error:
                failure = errors.of_exception(error, streaming=False)
        raise failure  # outside of the handlers: what the service wrote must not hang on it as its context


def _trusted(url: str) -> ssl.SSLContext:
    """Whom to believe: nobody where the URL is plain, which saves the time that reading certificates takes."""
    if urlsplit(url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return default_ssl_context()


def _expect_stream(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream" or response.headers.get("content-encoding", "identity") != "identity":
        raise LLMInvalid("The model's service answered with something else than a stream of events.")


async def _cap_refusals(response: httpx2.Response) -> None:
    """The SDK reads the body of a refusal whole, however long it is."""
    if not response.is_success and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _CappedStream(response.stream)


class _CappedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = LIMIT
        async for read in self._stream:
            yield read[:left]
            left -= len(read)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()
