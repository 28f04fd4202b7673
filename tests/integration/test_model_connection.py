"""The connection to a model's service over real sockets, on both event loops: what is read, and when it is kept."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.openai_api import connections
from adapters.openai_api.connection import Answer, Connection, Unreadable
from adapters.openai_api.connections import NotConnected
from adapters.openai_api.service import ModelService
from tests.harness.raw_server import Call, Play, RawServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SOON = 5
"""Seconds after which a wait has failed: far less than the service may take to answer, far more than it takes here."""

Open = Callable[..., ModelService]

pytestmark = pytest.mark.usefixtures("nothing_else_is_collected", "nothing_is_left_behind", "no_proxy_of_this_machine")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def open_service() -> AsyncIterator[Open]:
    opened: list[ModelService] = []

    def open_(url: str, *, api_key: str = "sk-test", connect_timeout: float = 5) -> ModelService:
        opened.append(
            ModelService(api_key=api_key, base_url=url, connect_timeout=connect_timeout, idle_timeout=60),
        )
        return opened[-1]

    yield open_
    for service in opened:
        service.close()


def answering(*pieces: bytes) -> Play:
    """Answers one request with these bytes, and ends."""

    async def play(call: Call) -> None:
        await call.request()
        for piece in pieces:
            await call.send(piece)

    return play


def answering_each(answer: bytes) -> Play:
    async def play(call: Call) -> None:
        while True:
            await call.request()
            await call.send(answer)

    return play


def answering_for_ever(start: bytes, piece: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(start)
        await call.send_for_ever(piece)

    return play


async def said(service: ModelService, content: bytes = b"{}") -> bytes:
    with anyio.fail_after(SOON):
        answer = await service.ask(content)
        try:
            return await rest_of(answer)
        finally:
            answer.release()


async def rest_of(answer: Answer) -> bytes:
    pieces = []
    while piece := await answer.read(16 * 1024):
        pieces.append(piece)
    return b"".join(pieces)


def split(data: bytes, cuts: set[int]) -> list[bytes]:
    places = sorted(cut for cut in cuts if cut < len(data))
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\nLink: </x>\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        CHUNKED + b"2;name=value\r\nhe\r\n3 \r\nllo\r\n0\r\nExpires: never\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        INTERIM + OK,
        INTERIM + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        INTERIM + b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.one_of(st.just(set(range(1, 400))), st.sets(st.integers(1, 200), max_size=5)))
async def test_a_body_is_read_whole_however_its_bytes_are_split(
    open_service: Open, answer: bytes, cuts: set[int]
) -> None:
    async with RawServer(answering(*split(answer, cuts))) as server:
        assert b"hello" == await said(open_service(server.url))


async def test_a_body_that_is_coded_but_not_in_chunks_ends_with_the_connection(open_service: Open) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello"
    async with RawServer(answering(answer)) as server:
        assert b"hello" == await said(open_service(server.url))


@pytest.mark.parametrize("name", [b"content-type", b"Content-Type", b"CONTENT-TYPE"])
async def test_a_header_is_found_in_any_case(open_service: Open, name: bytes) -> None:
    async with RawServer(answering(b"HTTP/1.1 200 OK\r\n%b: text/Plain\r\n\r\n" % name)) as server:
        answer = await open_service(server.url).ask(b"{}")
        assert "text/Plain" == answer.header("content-type")
        answer.release()


async def test_headers_of_interim_answers_and_trailers_are_not_those_of_the_answer(open_service: Open) -> None:
    late = b"HTTP/1.1 103 Early Hints\r\nEarly: 1\r\n\r\n" + CHUNKED + b"0\r\nLate: 1\r\n\r\n"
    async with RawServer(answering(late)) as server:
        answer = await open_service(server.url).ask(b"{}")
        assert b"" == await rest_of(answer)
        assert [("transfer-encoding", "chunked")] == answer.headers
        answer.release()


@pytest.mark.parametrize("answer", [OK, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
async def test_an_answer_read_to_its_end_leaves_its_connection_to_the_next(open_service: Open, answer: bytes) -> None:
    async with RawServer(answering_each(answer)) as server:
        service = open_service(server.url)
        assert [b"hello"] * 3 == [await said(service) for _ in range(3)]
        assert 1 == server.connections


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"H",
        OK + OK.replace(b"hello", b"wrong"),
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n0\r\n\r\n",
    ],
    ids=["close", "http-1.0", "surplus", "surplus-answer", "surplus-chunk"],
)
async def test_a_connection_of_which_nobody_knows_what_follows_is_not_used_again(
    open_service: Open, answer: bytes
) -> None:
    async with RawServer(answering_each(answer)) as server:
        service = open_service(server.url)
        assert [b"hello"] * 2 == [await said(service) for _ in range(2)]
        assert 2 == server.connections


async def test_an_answer_not_read_to_its_end_closes_its_connection(open_service: Open) -> None:
    async with RawServer(answering_each(OK)) as server:
        service = open_service(server.url)
        answer = await service.ask(b"{}")
        assert b"he" == await answer.read(2)
        answer.release()
        with anyio.fail_after(connections.KEEP_ALIVE / 2):
            await server.all_closed()
        assert b"hello" == await said(service)


async def test_a_request_that_was_answered_before_it_was_read_closes_its_connection(open_service: Open) -> None:
    async def play(call: Call) -> None:
        await call.head()
        await call.send(OK)
        await anyio.sleep_forever()

    async with RawServer(play) as server:
        service = open_service(server.url)
        assert b"hello" == await said(service, b"x" * 32_000_000)
        assert b"hello" == await said(service)
        assert 2 == server.connections


async def test_bytes_that_nobody_asked_for_close_an_idle_connection(open_service: Open) -> None:
    read = asyncio.Event()

    async def play(call: Call) -> None:
        await call.request()
        await call.send(OK)
        await read.wait()
        await call.send(OK.replace(b"hello", b"wrong"))
        await call.left()

    async with RawServer(play) as server:
        service = open_service(server.url)
        assert b"hello" == await said(service)
        read.set()
        await server.all_closed()
        assert b"hello" == await said(service)


async def end(call: Call) -> None:
    call.writer.close()


async def reset(call: Call) -> None:
    call.reset()


Ending = Callable[[Call], Awaitable[None]]


@pytest.mark.parametrize("ending", [end, reset])
async def test_a_connection_that_was_closed_while_idle_is_not_used_again(open_service: Open, ending: Ending) -> None:
    read = asyncio.Event()

    async def play(call: Call) -> None:
        await call.request()
        await call.send(OK)
        await read.wait()
        await ending(call)

    async with RawServer(play) as server:
        service = open_service(server.url)
        assert b"hello" == await said(service)
        read.set()
        await server.all_closed()
        assert b"hello" == await said(service)
        assert 2 == server.connections


async def test_an_idle_connection_is_closed_after_a_while(open_service: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.02)
    async with RawServer(answering_each(OK)) as server:
        assert b"hello" == await said(open_service(server.url))
        with anyio.fail_after(2):
            await server.all_closed()


async def test_a_slow_reader_makes_the_service_wait_and_misses_nothing(open_service: Open) -> None:
    body = os.urandom(1024) * 48 * 1024

    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for start in range(0, len(body), 65536):
            await call.send(body[start : start + 65536])

    async with RawServer(play) as server:
        answer = await open_service(server.url).ask(b"{}")
        await server.stalled()
        assert server.sent < len(body)
        assert body == await rest_of(answer)
        answer.release()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"Header: value\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nHeader: ", b"value" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 10),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"Trailer: value\r\n" * 100),
        (CHUNKED + b"5\r\nhello\r\n5;", b"name=value;" * 100),
    ],
    ids=["status", "headers", "header", "interim", "trailers", "chunk-extensions"],
)
async def test_what_is_endless_around_a_body_is_cut(open_service: Open, start: bytes, piece: bytes) -> None:
    async with RawServer(answering_for_ever(start, piece)) as server:
        with pytest.raises(Unreadable):
            await said(open_service(server.url))
        await server.all_closed()
        assert server.sent < 16_000_000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 042 OK\r\nContent-Length: 5\r\n\r\nhello",
        CHUNKED + b"five\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    ],
    ids=[
        "upgrade",
        "switch",
        "ssh",
        "tls",
        "two-lengths",
        "lengths",
        "negative",
        "no-status",
        "no-number",
        "wrong-number",
    ],
)
async def test_what_is_no_http_is_unreadable(open_service: Open, answer: bytes) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(answer)
        await call.left()

    async with RawServer(play) as server:
        with pytest.raises(Unreadable):
            await said(open_service(server.url))
        await server.all_closed()


@pytest.mark.parametrize("ending", [end, reset])
@pytest.mark.parametrize(
    "begun",
    [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED, CHUNKED + b"5\r\nhel", OK[:-1]],
    ids=["no-head", "half-a-head", "interim", "no-body", "half-a-chunk", "short"],
)
async def test_a_connection_that_breaks_is_an_error(open_service: Open, begun: bytes, ending: Ending) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(begun)
        await ending(call)

    async with RawServer(play) as server:
        with pytest.raises(ConnectionResetError):
            await said(open_service(server.url))


async def test_a_body_that_ends_with_its_connection_is_not_ended_by_a_reset(open_service: Open) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        call.reset()

    async with RawServer(play) as server:
        with pytest.raises(ConnectionResetError):
            await said(open_service(server.url))


async def test_what_came_before_a_break_is_read_first(open_service: Open) -> None:
    async with RawServer(answering(CHUNKED + b"9\r\nhello")) as server:
        answer = await open_service(server.url).ask(b"{}")
        await server.all_closed()
        assert b"hello" == await answer.read(100)
        with pytest.raises(ConnectionResetError):
            await answer.read(100)
        answer.release()


async def test_an_end_before_the_head_is_an_error_behind_an_answer_without_a_body(open_service: Open) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await call.request()

    async with RawServer(play) as server:
        service = open_service(server.url)
        assert b"" == await said(service)
        with pytest.raises(ConnectionResetError):
            await said(service)
        assert 1 == server.connections


@pytest.mark.parametrize("ending", [end, reset])
async def test_a_connection_that_ends_at_once_is_an_error(open_service: Open, ending: Ending) -> None:
    async with RawServer(ending) as server:
        with pytest.raises((ConnectionError, NotConnected)):
            await said(open_service(server.url))


@pytest.mark.parametrize("ending", [end, reset])
async def test_a_connection_that_has_ended_when_it_is_made_is_none(
    open_service: Open, monkeypatch: pytest.MonkeyPatch, ending: Ending
) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def slowly(*how: Any, **options: Any) -> Any:
        transport, protocol = await connect(*how, **options)
        while not transport.is_closing():
            await asyncio.sleep(0.005)
        return transport, protocol

    monkeypatch.setattr(loop, "create_connection", slowly)
    async with RawServer(ending) as server:
        with pytest.raises(NotConnected):
            await said(open_service(server.url))


async def test_a_connection_that_spoke_before_it_was_known_is_not_used() -> None:
    async with RawServer(Call.left) as server:
        loop = asyncio.get_running_loop()
        connection = Connection(loop, keep=lambda _: None)
        connection.data_received(b"H")
        await loop.create_connection(lambda: connection, "127.0.0.1", server.port)
        assert not connection.open
        connection.close()


async def open_files() -> list[str]:
    return await asyncio.to_thread(os.listdir, "/proc/self/fd")


@contextmanager
def full(host: str, port: int = 0) -> Iterator[int]:
    """A port where connecting takes for ever."""
    with socket.socket() as listening:
        listening.bind((host, port))
        listening.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(listening.getsockname())
        try:
            yield listening.getsockname()[1]
        finally:
            for caller in callers:
                caller.close()


async def test_cancelling_while_connecting_closes_the_socket(open_service: Open) -> None:
    with full("127.0.0.1") as port:
        service = open_service(f"http://127.0.0.1:{port}")
        await open_files()
        before = len(await open_files())
        with anyio.move_on_after(0.2) as scope:
            await service.ask(b"{}")
        assert scope.cancelled_caught
        assert before == len(await open_files())


@pytest.mark.parametrize("begun", [b"", CHUNKED, CHUNKED + b"5\r\nhel"], ids=["head", "body", "chunk"])
async def test_cancelling_while_waiting_closes_the_connection(open_service: Open, begun: bytes) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(begun)
        await call.left()

    async with RawServer(play) as server:
        with anyio.move_on_after(0.2) as scope:
            await said(open_service(server.url))
        assert scope.cancelled_caught
        assert 1 == server.connections
        await server.all_closed()


class Names:
    """Tells these addresses for `model.test`, and counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0
        self._otherwise = asyncio.get_running_loop().getaddrinfo
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up)

    async def _look_up(self, name: Any, port: Any, **kind: Any) -> list[Any]:
        if name != "model.test":
            return await self._otherwise(name, port, **kind)
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


async def test_an_address_that_refuses_is_followed_by_the_next(
    open_service: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with RawServer(answering_each(OK)) as server:
        assert b"hello" == await said(open_service(f"http://model.test:{server.port}"))


async def test_an_address_that_hangs_is_followed_by_the_next(
    open_service: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with RawServer(answering_each(OK)) as server:
        with full("127.0.0.2", server.port):
            assert b"hello" == await said(open_service(f"http://model.test:{server.port}"))


CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"


async def test_a_name_is_looked_up_once_in_a_while(open_service: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, "127.0.0.1")
    async with RawServer(answering_each(CLOSING)) as server:
        service = open_service(f"http://model.test:{server.port}")
        assert [b"hello"] * 3 == [await said(service) for _ in range(3)]
    assert 1 == names.asked


async def test_a_name_is_looked_up_again_after_a_while(open_service: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOKUP_AGE", -1)
    names = Names(monkeypatch, "127.0.0.1")
    async with RawServer(answering_each(CLOSING)) as server:
        service = open_service(f"http://model.test:{server.port}")
        assert [b"hello"] * 3 == [await said(service) for _ in range(3)]
    assert 3 == names.asked


async def test_a_name_is_looked_up_again_after_a_failure(open_service: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, "127.0.0.2")
    async with RawServer(answering_each(OK)) as server:
        service = open_service(f"http://model.test:{server.port}")
        with pytest.raises(NotConnected):
            await said(service)
        names.addresses = ("127.0.0.1",)
        assert b"hello" == await said(service)


@pytest.mark.parametrize("end_of_line", ["\r\n", "\n", "\r"])
async def test_a_key_of_several_lines_is_sent_to_nobody(open_service: Open, end_of_line: str) -> None:
    async with RawServer(answering_each(OK)) as server:
        with pytest.raises(ValueError, match="several lines"):
            await said(open_service(server.url, api_key=f"sk-test{end_of_line}X-Injected: 1"))
        assert 0 == server.connections
