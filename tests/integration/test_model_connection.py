"""Connections to a model's service over real sockets, on both event loops: reuse, limits, faults and cancellation."""

import asyncio
import gzip
import os
import random
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import cast

import anyio
import pytest

from adapters.llm_openai import LLMOpenAI
from adapters.llm_retrying import RetryingLLM
from application.ports.llm import (
    LLM,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMIdle,
    LLMInvalid,
    LLMTimeout,
    LLMTruncated,
    LLMUnreachable,
    LLMWrongAPI,
)
from domain.conversation import Message, Role
from domain.errors import ChatError, OutputLimit
from tests.harness.leaks import PeakMemory
from tests.harness.raw_server import Call, Play, RawServer

EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = STREAM + b"Transfer-Encoding: chunked\r\n"
REPLY = STREAM + b"Content-Length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)
TIMEOUT = 5
"""Seconds after which a test fails: far below the default timeouts of the adapter."""

OpenLLM = Callable[..., LLMOpenAI]
Ending = Callable[[Call], Awaitable[None]]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("nothing_is_left_behind", "no_proxy_of_this_machine"),
]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def open_llm() -> AsyncIterator[OpenLLM]:
    opened: list[LLMOpenAI] = []

    def open_(url: str, *, api_key: str = "sk-test", **timeouts: float) -> LLMOpenAI:
        llm = LLMOpenAI(api_key=api_key, base_url=url, model="any", temperature=0, max_tokens=10, **timeouts)  # type: ignore[arg-type]  # max_connections is not used
        opened.append(llm)
        return llm

    yield open_
    for llm in opened:
        await llm.close()


async def deltas_of(llm: LLM, message: str = "Hello") -> list[str]:
    with anyio.fail_after(TIMEOUT):
        async with llm.reply([Message(Role.USER, message)]) as reply:
            return [delta async for deltas in reply for delta in deltas]


async def error_of(llm: LLM) -> tuple[type[ChatError], bool]:
    with pytest.raises(ChatError) as raised:
        await deltas_of(llm)
    return type(raised.value), isinstance(raised.value, LLMError) and raised.value.repeatable


def event(content: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % content.encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


async def close(call: Call) -> None:
    call.writer.close()


async def reset(call: Call) -> None:
    call.reset()


async def wait(call: Call) -> None:
    await call.left()


def respond(*pieces: bytes, then: Ending = close) -> Play:
    """Respond to one request with these bytes."""

    async def play(call: Call) -> None:
        await call.request()
        for piece in pieces:
            await call.send(piece)
        await then(call)

    return play


def respond_to_each(response: bytes = REPLY) -> Play:
    async def play(call: Call) -> None:
        while True:
            await call.request()
            await call.send(response)

    return play


def respond_without_end(start: bytes, piece: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(start)
        await call.send_for_ever(piece)

    return play


# Reuse


@pytest.mark.parametrize("response", [REPLY, CHUNKED + b"\r\n" + chunk(EVENTS) + LAST_CHUNK], ids=["length", "chunked"])
async def test_a_finished_reply_returns_its_connection(open_llm: OpenLLM, response: bytes) -> None:
    async with RawServer(respond_to_each(response)) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 3 == [await deltas_of(llm) for _ in range(3)]
        assert server.connections == 1


@pytest.mark.parametrize(
    "response",
    [
        REPLY.replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        REPLY.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REPLY + REPLY.replace(b"Hi", b"No"),
    ],
    ids=["close", "http-1.0", "surplus-response"],
)
async def test_a_connection_in_an_unknown_state_is_not_reused(open_llm: OpenLLM, response: bytes) -> None:
    async with RawServer(respond_to_each(response)) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 2 == [await deltas_of(llm) for _ in range(2)]
        assert server.connections == 2


large_prompt = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
"""aiohttp advises to send files this way; a prompt is in memory anyway."""


@large_prompt
async def test_a_request_that_was_answered_before_it_was_read_closes_its_connection(open_llm: OpenLLM) -> None:
    async def play(call: Call) -> None:
        await call.head()
        await call.send(REPLY)
        await anyio.sleep_forever()

    async with RawServer(play) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await deltas_of(llm, "x" * 32_000_000)
        assert ["Hi"] == await deltas_of(llm)
        assert server.connections == 2


async def test_an_idle_connection_is_closed_after_keep_alive(open_llm: OpenLLM) -> None:
    async with RawServer(respond_to_each()) as server:
        assert ["Hi"] == await deltas_of(open_llm(server.url, keep_alive=0.05))
        with anyio.fail_after(2):
            await server.all_closed()


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n\n"], ids=["finished", "done"])
async def test_a_finished_reply_ends_although_the_service_keeps_sending(open_llm: OpenLLM, tail: bytes) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM + b"\r\n" + EVENTS.partition(b"data: [DONE]")[0] + tail)
        while True:
            await call.send(b": comment\n\n")
            await asyncio.sleep(0.02)

    async with RawServer(play) as server:
        with anyio.fail_after(2):
            assert ["Hi"] == await deltas_of(open_llm(server.url))
        await server.all_closed()


# Stale connections


def respond_once_per_connection(ending: Ending, *, connections: int | None = None) -> Play:
    """Respond to the first request of a connection; end it when the second arrives.

    To the client this looks as if the idle connection had been closed while the request was on its way. From the
    given number of connections on, new ones end at the first request.
    """
    opened = count(1)

    async def play(call: Call) -> None:
        number = next(opened)
        await call.request()
        if connections is None or number <= connections:
            await call.send(REPLY)
            await call.request()
        await ending(call)

    return play


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_request_on_a_stale_connection_is_sent_again_on_a_new_one(open_llm: OpenLLM, ending: Ending) -> None:
    async with RawServer(respond_once_per_connection(ending)) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 2 == [await deltas_of(llm) for _ in range(2)]
        assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize("ending", [close, reset])
async def test_the_new_connection_is_not_another_stale_one_of_the_pool(open_llm: OpenLLM, ending: Ending) -> None:
    pooled = 8
    async with RawServer(respond_once_per_connection(ending)) as server:
        llm = open_llm(server.url)
        async with anyio.create_task_group() as tasks:
            for _ in range(pooled):
                tasks.start_soon(deltas_of, llm)
        assert server.connections == pooled
        sent = len(server.requests)  # more than eight if a slow call found a fast one's connection, and was repeated
        assert ["Hi"] == await deltas_of(llm)
        assert (server.connections, len(server.requests)) == (pooled + 1, sent + 2)


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_new_connection_that_ends_before_the_first_byte_is_an_error(open_llm: OpenLLM, ending: Ending) -> None:
    async with RawServer(respond_once_per_connection(ending, connections=0)) as server:
        assert (LLMDisconnected, False) == await error_of(open_llm(server.url))
        assert (server.connections, len(server.requests)) == (1, 1)


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_request_is_sent_again_only_once(open_llm: OpenLLM, ending: Ending) -> None:
    async with RawServer(respond_once_per_connection(ending, connections=1)) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await deltas_of(llm)
        assert (LLMDisconnected, False) == await error_of(llm)
        assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\nContent-", CHUNKED + b"\r\n"])
async def test_a_reused_connection_that_ends_after_the_first_byte_is_an_error(open_llm: OpenLLM, begun: bytes) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(REPLY)
        await call.request()
        await call.send(begun)

    async with RawServer(play) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await deltas_of(llm)
        assert (LLMDisconnected, False) == await error_of(llm)
        assert (server.connections, len(server.requests)) == (1, 2)


async def test_a_stale_connection_is_not_an_attempt(open_llm: OpenLLM) -> None:
    responses = iter([REPLY, b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", REPLY])

    async def play(call: Call) -> None:
        while True:
            await call.request()
            response = next(responses)
            if not response:
                return
            await call.send(response)

    async with RawServer(play) as server:
        llm = RetryingLLM(open_llm(server.url), max_attempts=2, backoff=0)
        assert [["Hi"]] * 2 == [await deltas_of(llm) for _ in range(2)]
        assert len(server.requests) == 4


class HastyServer(asyncio.Protocol):
    """Stops reading a connection that was idle for a while, and closes it a little later without notice."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"\r\ncontent-length: ")
        if length and len(body) == int(length.partition(b"\r\n")[0]):
            self._received = b""
            self._transport.write(REPLY)
            self._timer = self._loop.call_later(0.004, self._stop_reading)

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _stop_reading(self) -> None:
        self._transport.pause_reading()
        self._timer = self._loop.call_later(0.004, self._transport.close)


async def failures_against_a_hasty_server(llm: LLM, *, turns: int, concurrency: int) -> int:
    pauses = random.Random(7)
    failures = 0

    async def user() -> None:
        nonlocal failures
        for _ in range(turns // concurrency):
            try:
                assert ["Hi"] == await deltas_of(llm)
            except LLMError:
                failures += 1
            await asyncio.sleep(pauses.uniform(0, 0.012))

    async with anyio.create_task_group() as tasks:
        for _ in range(concurrency):
            tasks.start_soon(user)
    return failures


@pytest.mark.row("U27")
async def test_no_turn_fails_because_the_service_closes_idle_connections_without_notice(open_llm: OpenLLM) -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(HastyServer, "127.0.0.1", 0) as server:
        llm = open_llm(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await failures_against_a_hasty_server(llm, turns=480, concurrency=24) == 0


# Compression


def compressor(encoding: str) -> "zlib._Compress":
    return zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw-deflate": -15}[encoding])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw-deflate"])
async def test_each_flushed_event_of_a_compressed_stream_is_delivered_at_once(open_llm: OpenLLM, encoding: str) -> None:
    taken = asyncio.Event()

    async def play(call: Call) -> None:
        compressed = compressor(encoding)
        await call.request()
        await call.send(CHUNKED + b"Content-Encoding: %b\r\n\r\n" % encoding.removeprefix("raw-").encode())
        for number in range(3):
            data = compressed.compress(event(str(number)))
            await call.send(chunk(data + compressed.flush(zlib.Z_SYNC_FLUSH)))
            await taken.wait()
            taken.clear()
        await call.send(chunk(compressed.compress(EVENTS) + compressed.flush()) + LAST_CHUNK)
        await call.left()

    async with RawServer(play) as server:
        received = []
        with anyio.fail_after(TIMEOUT):
            async with open_llm(server.url).reply([Message(Role.USER, "Hello")]) as reply:
                async for deltas in reply:
                    received.append(deltas)
                    taken.set()
    assert [["0"], ["1"], ["2"], ["Hi"]] == received


async def test_a_compressed_reply_returns_its_connection(open_llm: OpenLLM) -> None:
    body = gzip.compress(EVENTS)
    response = STREAM + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with RawServer(respond_to_each(response)) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 2 == [await deltas_of(llm) for _ in range(2)]
        assert server.connections == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_error_body_is_read(open_llm: OpenLLM, encoding: str) -> None:
    compressed = compressor(encoding)
    body = compressed.compress(b'{"error": {"code": "context_length_exceeded", "message": "No"}}') + compressed.flush()
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Encoding: %b\r\n" % encoding.encode()
    async with RawServer(respond(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))) as server:
        assert (LLMContextTooLong, False) == await error_of(open_llm(server.url))


def compressed_zeros(megabytes: int) -> bytes:
    compressed = compressor("gzip")
    return b"".join(compressed.compress(bytes(1_000_000)) for _ in range(megabytes)) + compressed.flush()


@pytest.mark.parametrize(
    ("head", "error"),
    [(CHUNKED, OutputLimit), (b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n", LLMFailed)],
    ids=["line", "error-body"],
)
async def test_a_decompression_bomb_takes_little_memory(open_llm: OpenLLM, head: bytes, error: type[ChatError]) -> None:
    bomb = chunk(compressed_zeros(100))
    async with RawServer(respond(head + b"Content-Encoding: gzip\r\n\r\n", bomb, then=wait)) as server:
        llm = open_llm(server.url)
        async with PeakMemory() as memory:
            raised, _ = await error_of(llm)
        await server.all_closed()
    assert issubclass(raised, error)
    assert memory.growth < 20_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "compress", "gzip, gzip"])
async def test_a_stream_that_cannot_be_decompressed_is_invalid(open_llm: OpenLLM, encoding: str) -> None:
    head = CHUNKED + b"Content-Encoding: %b\r\n\r\n" % encoding.encode()
    async with RawServer(respond(head + chunk(b"\xff" * 100), then=wait)) as server:
        assert (LLMInvalid, False) == await error_of(open_llm(server.url))
        await server.all_closed()


async def test_a_compressed_stream_that_is_cut_is_disconnected(open_llm: OpenLLM) -> None:
    compressed = compressor("gzip")
    data = compressed.compress(event("Hi")) + compressed.flush(zlib.Z_SYNC_FLUSH)
    async with RawServer(respond(CHUNKED + b"Content-Encoding: gzip\r\n\r\n", chunk(data))) as server:
        assert (LLMDisconnected, False) == await error_of(open_llm(server.url))


# Limits


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"Header: value\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nHeader: ", b"value" * 100),
    ],
    ids=["status", "headers", "header"],
)
async def test_an_endless_head_is_invalid(open_llm: OpenLLM, start: bytes, piece: bytes) -> None:
    async with RawServer(respond_without_end(start, piece)) as server:
        assert (LLMInvalid, False) == await error_of(open_llm(server.url))
        await server.all_closed()
        assert server.sent < 16_000_000


async def test_endless_interim_responses_end_at_the_first_byte_timeout(open_llm: OpenLLM) -> None:
    async def play(call: Call) -> None:
        await call.request()
        while True:
            await call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            await asyncio.sleep(0.01)

    async with RawServer(play) as server:
        assert (LLMTimeout, False) == await error_of(open_llm(server.url, first_byte_timeout=0.3))
        await server.all_closed()


async def test_a_slow_reader_slows_the_service_down_and_misses_nothing(open_llm: OpenLLM) -> None:
    events = 60_000

    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM + b"\r\n")
        for number in range(events):
            await call.send(event(f"{number:0100}"))
        await call.send(EVENTS)

    async with (
        RawServer(play) as server,
        open_llm(server.url, idle_timeout=0.2).reply([Message(Role.USER, "Hello")]) as reply,
    ):
        await server.stalled()
        assert server.sent < 5_000_000
        received = [delta async for deltas in reply for delta in deltas]
    assert [f"{number:0100}" for number in range(events)] + ["Hi"] == received


# Faults


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        STREAM + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        STREAM + b"Content-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 042 OK\r\nContent-Length: 5\r\n\r\nhello",
        CHUNKED + b"\r\nfive\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"\r\n4\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["upgrade", "lengths", "negative", "status", "chunk-size", "chunk"],
)
async def test_a_response_that_violates_http_is_invalid(open_llm: OpenLLM, response: bytes) -> None:
    async with RawServer(respond(response, then=wait)) as server:
        assert (LLMInvalid, False) == await error_of(open_llm(server.url, keep_alive=0.05))
        await server.all_closed()


async def test_a_server_that_does_not_speak_http_is_not_tried_again(open_llm: OpenLLM) -> None:
    async with RawServer(respond(b"SSH-2.0-OpenSSH_9.9\r\n", then=wait)) as server:
        with pytest.raises(LLMWrongAPI, match="does not speak HTTP: check the host and port") as raised:
            await deltas_of(open_llm(server.url))
    assert (raised.value.retryable, raised.value.diagnosis["cause"]) == (False, "not http")


async def test_a_timeout_names_its_setting(open_llm: OpenLLM) -> None:
    async with RawServer(respond(b"", then=wait)) as server:
        with pytest.raises(LLMTimeout, match="UPSTREAM_FIRST_BYTE_TIMEOUT"):
            await deltas_of(open_llm(server.url, first_byte_timeout=0.05))
    async with RawServer(respond(STREAM + b"\r\n", then=wait)) as server:
        with pytest.raises(LLMIdle, match="UPSTREAM_IDLE_TIMEOUT"):
            await deltas_of(open_llm(server.url, idle_timeout=0.05))


@pytest.mark.parametrize(
    ("broken", "encoding"),
    [(b"five\r\n", b"identity"), (LAST_CHUNK, b"deflate"), (b"5;" + b"extension=x;" * 10_000, b"identity")],
    ids=["chunk-size", "deflate-without-end", "chunk-extensions"],
)
async def test_a_broken_body_that_aiohttp_does_not_report_ends_at_the_idle_timeout(
    open_llm: OpenLLM, broken: bytes, encoding: bytes
) -> None:
    compressed = compressor("deflate")
    data = event("Hi")
    if encoding == b"deflate":
        data = compressed.compress(data) + compressed.flush(zlib.Z_SYNC_FLUSH)
    head = CHUNKED + b"Content-Encoding: %b\r\n\r\n" % encoding
    received: list[str] = []

    async def play(call: Call) -> None:
        await call.request()
        await call.send(head + chunk(data))
        while not received:
            await asyncio.sleep(0.001)
        await call.send(broken)
        await call.left()

    async with RawServer(play) as server:
        async with open_llm(server.url, idle_timeout=0.3).reply([Message(Role.USER, "Hello")]) as reply:
            stream = aiter(reply)
            received.extend(await anext(stream))
            with anyio.fail_after(TIMEOUT), pytest.raises(LLMIdle):
                await anext(stream)
        await server.all_closed()
    assert received == ["Hi"]


@pytest.mark.parametrize("ending", [close, reset])
@pytest.mark.parametrize(
    "begun",
    [
        b"",
        STREAM,
        b"HTTP/1.1 100 Continue\r\n\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"\r\n5\r\nhel",
        REPLY[:-40],
    ],
    ids=["no-head", "half-a-head", "interim", "no-body", "half-a-chunk", "short"],
)
async def test_a_connection_that_breaks_is_an_error(open_llm: OpenLLM, begun: bytes, ending: Ending) -> None:
    async with RawServer(respond(begun, then=ending)) as server:
        assert (LLMDisconnected, False) == await error_of(open_llm(server.url))


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_body_without_length_that_ends_early_is_truncated(open_llm: OpenLLM, ending: Ending) -> None:
    async with RawServer(respond(STREAM + b"\r\n" + event("Hi"), then=ending)) as server:
        error, _ = await error_of(open_llm(server.url))
    assert issubclass(error, LLMTruncated | LLMDisconnected)


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_connection_that_ends_when_it_is_made_is_an_error(open_llm: OpenLLM, ending: Ending) -> None:
    async with RawServer(ending) as server:
        error, _ = await error_of(open_llm(server.url))
    assert issubclass(error, LLMDisconnected | LLMUnreachable)


@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
async def test_a_key_with_a_line_break_is_not_sent(open_llm: OpenLLM, newline: str) -> None:
    async with RawServer(respond_to_each()) as server:
        llm = open_llm(server.url, api_key=f"sk-test{newline}X-Injected: 1")
        assert (LLMInvalid, False) == await error_of(llm)
        assert server.requests == []


# Cancellation


async def open_files() -> int:
    return len(await asyncio.to_thread(os.listdir, "/proc/self/fd"))


@contextmanager
def full_port() -> Iterator[int]:
    """A port with a full backlog, which neither accepts nor refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for each in waiting:
                each.close()


async def test_cancelling_while_connecting_closes_the_socket(open_llm: OpenLLM) -> None:
    with full_port() as port:
        llm = open_llm(f"http://127.0.0.1:{port}")
        await open_files()
        before = await open_files()
        with anyio.move_on_after(0.2) as scope:
            await deltas_of(llm)
        assert scope.cancelled_caught
        assert before == await open_files()


@pytest.mark.parametrize(
    "begun", [b"", CHUNKED + b"\r\n", CHUNKED + b"\r\n5\r\nhel", CHUNKED + b"\r\n" + chunk(event("Hi"))]
)
async def test_cancelling_closes_the_connection_within_a_second(open_llm: OpenLLM, begun: bytes) -> None:
    async with RawServer(respond(begun, then=wait)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deltas_of, open_llm(server.url))
            while not server.requests or server.sent < len(begun):
                await asyncio.sleep(0.005)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(1):
            await server.all_closed()


@large_prompt
async def test_leaving_a_reply_closes_a_connection_that_the_service_does_not_read(open_llm: OpenLLM) -> None:
    async def play(call: Call) -> None:
        await call.head()
        await call.send(CHUNKED + b"\r\n" + chunk(event("Hi")))
        await anyio.sleep_forever()

    async with RawServer(play) as server:
        llm = open_llm(server.url)
        before = await open_files()
        async with llm.reply([Message(Role.USER, "x" * 32_000_000)]) as reply:
            assert ["Hi"] == list(await anext(aiter(reply)))
            assert before < await open_files()
        with anyio.fail_after(1):
            while await open_files() > before + 1:  # the server's end stays
                await asyncio.sleep(0.01)
