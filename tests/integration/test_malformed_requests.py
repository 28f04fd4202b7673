"""Requests that are not valid HTTP, ambiguous, or too large: how they are answered, and what they cost."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import cycle
from typing import Any

import pytest

from entrypoints.connection import Connection
from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.leaks import PeakMemory
from tests.harness.malformed_requests import CHUNKED, GET, MALFORMED, POST, TOO_LARGE, TOO_LONG, mutations
from tests.harness.raw_client import RawClient
from tests.harness.servers import Service, running_service
from tests.harness.service_log import ServiceLog

pytestmark = pytest.mark.server

HEADERS = ("x-content-type-options", "referrer-policy", "cache-control", "x-request-id")


@pytest.fixture(autouse=True)
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[ServiceLog]:
    log = ServiceLog(capsys)
    yield log
    assert log.levels() <= {"debug", "info"}


@asynccontextmanager
async def serving(timeout: float = 5, **settings: Any) -> AsyncIterator[Service]:
    replies = [ScriptedReply(deltas=("Hello", "!"), hangs=False)] * 2
    timeouts: dict[str, Any] = {"head_timeout": timeout, "body_timeout": timeout}
    async with running_service({"llm": ScriptedLLM(*replies)}, **timeouts, **settings) as service:
        yield service


async def refused(service: Service, data: bytes) -> tuple[int, str]:
    """Send `data`, and return the status and code of the only answer, after which the connection is closed."""
    async with RawClient(service.url) as client:
        client.send(data)
        await client.head()
        await client.rest()
        assert await client.closed() == b""
    problem = json.loads(client.body)
    assert client.headers["content-type"] == "application/problem+json"
    assert client.headers["connection"] == "close"
    assert client.headers["x-request-id"] == problem["request_id"]
    assert [name for name in HEADERS if name not in client.headers] == []
    assert {"type", "title", "detail", "status"} <= problem.keys()
    return client.status, problem["code"]


@pytest.mark.row("C10")
async def test_a_malformed_request_is_answered_with_400_and_logged_once(log: ServiceLog) -> None:
    async with serving() as service:
        answers = await asyncio.gather(*(refused(service, data) for data in MALFORMED.values()))
        assert dict(zip(MALFORMED, answers, strict=True)) == dict.fromkeys(MALFORMED, (400, "malformed_request"))
        assert [line["reason"] for line in log.events("request")] == ["malformed_request"] * len(MALFORMED)


@pytest.mark.row("C10")
async def test_a_head_that_is_too_large_is_answered_with_431_and_logged_once(log: ServiceLog) -> None:
    async with serving() as service:
        answers = await asyncio.gather(*(refused(service, data) for data in TOO_LARGE.values()))
        assert dict(zip(TOO_LARGE, answers, strict=True)) == dict.fromkeys(TOO_LARGE, (431, "headers_too_large"))
        assert [line["status"] for line in log.events("request")] == [431] * len(TOO_LARGE)


@pytest.mark.row("C10")
async def test_a_url_that_is_too_long_is_answered_with_414_and_logged_once(log: ServiceLog) -> None:
    async with serving() as service:
        answers = await asyncio.gather(*(refused(service, data) for data in TOO_LONG.values()))
        assert dict(zip(TOO_LONG, answers, strict=True)) == dict.fromkeys(TOO_LONG, (414, "uri_too_long"))
        assert [line["status"] for line in log.events("request")] == [414] * len(TOO_LONG)


HEADS = [data for data in MALFORMED.values() if not data.startswith(CHUNKED)]
BODIES = [data for data in MALFORMED.values() if data.startswith(CHUNKED)]


@pytest.mark.parametrize("requests", [HEADS, BODIES], ids=["heads", "bodies"])
async def test_a_turn_does_not_wait_for_the_answers_to_hundreds_of_malformed_requests(requests: list[bytes]) -> None:
    async with serving() as service, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = [await stack.enter_async_context(RawClient(service.url)) for _ in range(300)]
        await service.client.get("/livez")  # when it is answered, the connections before it were accepted
        for client, data in zip(clients, cycle(requests), strict=False):
            client.send(data)
        answers = [tasks.create_task(client.head()) for client in clients]
        response = await service.client.post("/api/chat/simple", json={"user_id": "user", "message": "Hello"})
        assert response.status_code == 200
        assert not all(answer.done() for answer in answers)
    assert {answer.result() for answer in answers} == {400}


async def test_what_surrounds_a_body_is_limited() -> None:
    async with serving() as service:
        surroundings = [
            CHUNKED + b"2;" + b"x" * 1_000_000,
            CHUNKED + b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 200_000,
            CHUNKED + b"2\r\n{}\r\n0\r\nA: " + b"b" * 1_000_000,
        ]
        for data in surroundings:
            async with RawClient(service.url) as client:
                client.send(data)
                received = await client.closed()
            assert received == b"" or b'"malformed_request"' in received or b'"headers_too_large"' in received


@pytest.mark.parametrize(
    "data",
    [
        GET + b"".join(b"X%d: %s\r\n" % (number, b"v" * 1_000) for number in range(31)) + b"\r\n",
        GET + b"A: b\r\n" * 99 + b"\r\n",
        b"\r\n\r\n" + GET + b"\r\n",
        GET.replace(b"Host: localhost", b"Host:") + b"\r\n",
        GET.replace(b"Host: localhost", b"HOST: [::1]:8000") + b"\r\n",
        GET.replace(b"/api", b"http://x/api") + b"\r\n",
        GET.replace(b"1.1\r\nHost: localhost", b"1.0") + b"\r\n",
        GET + b"Content-Length: 5\r\n\r\nhello",
    ],
    ids=["31 kB", "100 headers", "empty lines", "empty host", "IPv6", "absolute", "HTTP/1.0", "with a body"],
)
async def test_an_unusual_but_valid_request_is_served(data: bytes) -> None:
    # Without a host, it would be refused without authentication.
    async with serving(chat_dangerously_allow_unauthenticated=True) as service, RawClient(service.url) as client:
        for piece in (data[:10], data[10:5_000], data[5_000:]):
            client.send(piece)
            await asyncio.sleep(0.01)
        assert await client.head() == 200


async def test_a_client_that_speaks_http_1_0_gets_no_chunks() -> None:
    body = json.dumps({"user_id": "ada", "message": "Hello"}).encode()
    head = POST.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with serving() as service, RawClient(service.url) as streaming, RawClient(service.url) as leaving:
        streaming.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert await streaming.head() == 200
        streamed = ChatStream.of(await streaming.closed())
        leaving.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"GET", b"HEAD") + b"\r\n")
        assert (await leaving.head(), await leaving.closed()) == (200, b"")

    assert streamed.text == "Hello!"
    assert "error" not in streamed.last
    assert streaming.headers["connection"] == "close"
    assert not {"transfer-encoding", "content-length"} & streaming.headers.keys()


@pytest.mark.parametrize("path", ["//evil.example/api/health", "/api/../livez", "/%00", "/%ff", "*"])
async def test_an_unusual_target_is_not_found(path: str) -> None:
    async with serving() as service, RawClient(service.url) as client:
        client.request("OPTIONS" if path == "*" else "GET", path)
        assert await client.head() == 404


async def test_trailers_do_not_become_headers() -> None:
    async with serving() as service:
        async with RawClient(service.url) as client:
            client.send(CHUNKED + b"2\r\n{}\r\n0\r\nContent-Type: text/plain\r\nX-Request-ID: from-a-trailer\r\n\r\n")
            assert await client.head() == 422
        assert client.headers["x-request-id"] != "from-a-trailer"


async def test_garbage_behind_requests_is_answered_after_their_responses() -> None:
    async with serving() as service:
        data = json.dumps({"user_id": "user", "message": "Hello"}).encode()
        async with RawClient(service.url) as client:
            client.send(
                (POST + b"Content-Length: %d\r\n\r\n" % len(data) + data) * 2 + b"\0garbage\r\n\r\n" + b"x" * 10**6
            )
            for _ in range(2):
                assert await client.head() == 200
                client.body = b""
                await client.rest()
                assert client.stream.last == {"content": "", "done": True}
            assert await client.head() == 400
            client.body = b""
            await client.rest()
            assert await client.closed() == b""


async def test_a_broken_body_is_not_answered_twice() -> None:
    async with serving() as service:
        async with RawClient(service.url) as client:
            client.send(GET + b"Transfer-Encoding: chunked\r\n\r\n")
            await client.head()
            await client.rest()
            client.send(b"zz\r\n")
            assert await client.closed() == b""
        assert client.status == 200


async def test_more_requests_than_may_wait_are_refused_after_those_that_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as service:
        monkeypatch.setattr(Connection, "max_pipelined", 5)
        async with RawClient(service.url) as client:
            client.send((GET + b"\r\n") * 50)
            received = await client.closed()
        assert received.count(b"HTTP/1.1 200") == 6
        assert received.count(b"HTTP/1.1 400") == 1
        assert received.endswith(b"}")


async def test_endless_heads_take_no_memory(log: ServiceLog) -> None:
    async with serving() as service:

        async def send_without_end(start: bytes, filler: bytes) -> None:
            async with RawClient(service.url) as client:
                client.send(start)
                for _ in range(200):
                    if await client.has_room():
                        client.send(filler)
                await client.closed()

        starts = [GET + b"X: ", GET + b"X", b"GET /"]
        await asyncio.gather(*(send_without_end(start, b"x" * 10_000) for start in starts))
        async with PeakMemory() as memory:
            await asyncio.gather(*(send_without_end(start, b"x" * 100_000) for start in starts * 10))
        assert memory.growth < 20_000_000  # of up to 600 MB that are sent
    assert sorted(line["status"] for line in log.events("request")) == [414] * 11 + [431] * 22


async def test_a_refused_client_may_go_on_sending_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the connection were closed while it is sending, it might not see the answer."""
    received = 0
    receive = Connection.data_received

    def counted(connection: Connection, data: bytes) -> None:
        nonlocal received
        received += len(data)
        receive(connection, data)

    monkeypatch.setattr(Connection, "data_received", counted)
    monkeypatch.setattr(Connection, "max_queued_bytes", 500_000)
    async with serving() as service, RawClient(service.url) as client:
        client.send(GET + b"X: " + b"x" * 100_000)
        assert await client.head() == 431
        for _ in range(10):
            client.send(b"x" * 10_000)
            await asyncio.sleep(0.02)
            assert await client.has_room()
        client.send(b"x" * 20_000_000)
        await client.closed()
    assert 200_000 < received < 1_500_000


@pytest.mark.row("C10")
async def test_500_damaged_requests_harm_nobody() -> None:
    async with serving(timeout=0.3) as service:

        async def statuses(data: bytes) -> list[int]:
            """Return the statuses of all answers; none if the connection is closed. Raises TimeoutError if it hangs."""
            async with RawClient(service.url) as client:
                client.send(data)
                with suppress(asyncio.IncompleteReadError, OSError):
                    first = await client.head()
                    client.leave("half")
                    rest = await client.closed()
                    return [first, *(int(part[:3]) for part in rest.split(b"HTTP/1.1 ")[1:])]
            return []

        await asyncio.gather(*map(statuses, mutations(100, seed=2)))
        async with PeakMemory() as memory:
            corpus = list(mutations(500))
            found: list[int] = []
            for start in range(0, 500, 50):
                answers = await asyncio.gather(*map(statuses, corpus[start : start + 50]))
                found += [status for answer in answers for status in answer]
                assert (await service.client.get("/readyz")).status_code == 200
        assert len(found) > 300
        assert [status for status in found if status >= 500] == []
        assert memory.growth < 20_000_000
        assert (await service.client.get("/api/chat/history/user")).json()["count"] == 0
