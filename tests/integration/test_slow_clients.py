"""Clients that send slowly or nothing, stop reading or vanish: they are disconnected, and nobody else is delayed."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from entrypoints.connection import Connection
from tests.harness.black_hole import receive_no_more
from tests.harness.chat_stream import ChatStream
from tests.harness.exchange import TIMEOUT
from tests.harness.leaks import PeakMemory, assert_no_more_than, assert_no_turn_left, holdings
from tests.harness.malformed_requests import GET, POST
from tests.harness.raw_client import RawClient
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import Service, running_service
from tests.harness.service_log import ServiceLog

pytestmark = pytest.mark.server

ON_LINUX = sys.platform == "linux"
"""Only Linux can be told to give up a connection on which nothing is confirmed."""


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        upstream.texts = ("x" * 99,)
        yield upstream


@pytest.fixture(autouse=True)
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[ServiceLog]:
    log = ServiceLog(capsys)
    yield log
    assert log.levels() <= {"debug", "info"}


@asynccontextmanager
async def serving(upstream: ScriptedUpstream, model: str = "tokens-3", **settings: Any) -> AsyncIterator[Service]:
    """A service that waits half a second for a head, and a second for a body and for a client that does not read."""
    limits = {"head_timeout": 0.5, "body_timeout": 1, "send_timeout": 1, **settings}
    async with running_service(
        openai_base_url=upstream.base_url, openai_api_key="any", openai_model=model, **limits
    ) as service:
        yield service
        await assert_no_turn_left(service)


def body(user: str = "user", **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "message": "Hello", **fields}


async def turns(service: Service, user: str = "user") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await service.client.get(f"/api/chat/history/{user}")).json()["history"]
    return listed


async def ended_turn(service: Service, user: str = "user") -> tuple[str, str | None]:
    async with asyncio.timeout(TIMEOUT):
        while [turn["status"] for turn in await turns(service, user)] in ([], ["in_progress"]):
            await asyncio.sleep(0.05)
    (turn,) = await turns(service, user)
    return turn["status"], turn["reason"]


async def answer(client: RawClient) -> tuple[int, str]:
    """Return the status and code of a problem, after which the connection is closed."""
    await client.head()
    client.body = b""
    await client.rest()
    assert await client.closed() == b""
    assert client.headers["connection"] == "close"
    return client.status, json.loads(client.body)["code"]


async def trickle(client: RawClient, start: bytes) -> tuple[int, str]:
    """Send `start`, and then a byte every 20 milliseconds until there is an answer."""
    client.send(start)
    waiting = asyncio.create_task(answer(client))
    while not waiting.done():
        # A failure must not end the reading: the service may have answered, and closed the connection.
        with suppress(OSError):
            os.write(client.socket.fileno(), b"x")
        await asyncio.sleep(0.02)
    return await waiting


TIMED_OUT = (408, "request_timeout")


@pytest.mark.parametrize("start", [b"GET /", GET, GET + b"X: ", POST + b"Content-Length: 5000\r\n\r\n{"])
@pytest.mark.row("C8")
async def test_a_request_that_trickles_in_is_answered_with_408_and_logged_once(
    upstream: ScriptedUpstream, start: bytes, log: ServiceLog
) -> None:
    async with serving(upstream) as service, AsyncExitStack() as stack:
        before = await holdings(service)
        clients = [await stack.enter_async_context(RawClient(service.url)) for _ in range(50)]
        async with asyncio.timeout(TIMEOUT):
            assert await asyncio.gather(*(trickle(client, start) for client in clients)) == [TIMED_OUT] * 50
        await stack.aclose()
        await assert_no_more_than(before, service)
        assert await turns(service) == []
    refused = [line["reason"] for line in log.events("request") if line["status"] == 408]
    assert refused == ["request_timeout"] * 50
    assert upstream.requests == []


@pytest.mark.row("C9")
async def test_connections_without_a_request_are_closed_silently(upstream: ScriptedUpstream, log: ServiceLog) -> None:
    async with serving(upstream) as service, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(RawClient(service.url)) for _ in range(500)]
        response = await service.client.post("/api/chat", json=body())
        async with asyncio.timeout(TIMEOUT):
            assert await asyncio.gather(*(client.closed() for client in silent)) == [b""] * 500
    assert ChatStream.of(response.content).last == {"content": "", "done": True}
    assert len(log.events("request")) == 1


@pytest.mark.row("C12")
async def test_a_body_that_was_asked_for_and_never_arrives_is_answered_with_408(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as service, RawClient(service.url) as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await client.head() == 100
        assert await answer(client) == TIMED_OUT
        assert await turns(service) == []
    assert upstream.requests == []


async def test_a_body_announced_to_a_route_without_one_only_closes_the_connection(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as service, RawClient(service.url) as client:
        client.send(GET + b"Content-Length: 5\r\n\r\n")
        assert await client.head() == 200
        await client.rest()
        assert await client.closed() == b""


async def test_a_connection_may_idle_between_two_requests(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as service, RawClient(service.url) as client:
        for _ in range(2):
            client.send(GET + b"\r\n")
            assert await client.head() == 200
            client.body = b""
            await client.rest()
            await asyncio.sleep(1)
        client.send(GET)
        assert await answer(client) == TIMED_OUT


async def test_a_connection_may_idle_after_a_body_that_ended_behind_its_response(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as service, RawClient(service.url) as client:
        client.send(GET + b"Content-Length: 5\r\n\r\n")
        await client.head()
        await client.rest()
        client.send(b"hello")
        await asyncio.sleep(1.5)
        client.send(GET + b"\r\n")
        assert await client.head() == 200


async def test_empty_lines_do_not_keep_a_connection_open(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as service, RawClient(service.url) as client:
        client.send(GET + b"\r\n")
        await client.head()
        await client.rest()
        client.send(b"\r\n")
        async with asyncio.timeout(TIMEOUT):
            assert await client.closed() == b""


async def test_a_head_behind_a_running_response_has_until_after_its_end(upstream: ScriptedUpstream) -> None:
    data = json.dumps(body()).encode()
    async with serving(upstream, "tokens-30-50") as service, RawClient(service.url) as client:
        client.send(POST + b"Content-Length: %d\r\n\r\n" % len(data) + data + GET)
        assert await client.head() == 200
        await client.rest()
        assert client.stream.last == {"content": "", "done": True}
        client.send(b"\r\n" + GET)
        assert await client.head() == 200
        client.body = b""
        await client.rest()
        assert await answer(client) == TIMED_OUT


async def test_a_body_that_the_service_does_not_read_yet_is_not_late(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "max_queued_bytes", 1_000)
    first, second = json.dumps(body()).encode(), json.dumps(body("second", padding="x" * 300_000)).encode()
    async with serving(upstream, "tokens-40-50") as service, RawClient(service.url) as client:
        client.send(POST + b"Content-Length: %d\r\n\r\n" % len(first) + first)
        await client.head()
        client.send(POST + b"Content-Length: %d\r\n\r\n" % len(second) + second)
        await client.rest()
        assert await client.head() == 200


async def test_a_body_that_a_running_response_does_not_need_closes_the_connection_after_it(
    upstream: ScriptedUpstream,
) -> None:
    async with (
        serving(upstream, "tokens-40-50") as service,
        RawClient(service.url) as client,
        RawClient(service.url) as follower,
    ):
        client.post("/api/chat", body())
        await client.head()
        path = f"/api/chat/turns/{client.headers['x-turn-id']}/stream"
        follower.send(GET.replace(b"/api/health", path.encode()) + b"Content-Length: 5\r\n\r\n")
        assert await follower.head() == 200
        await follower.rest()
        assert follower.stream.last == {"content": "", "done": True}
        async with asyncio.timeout(TIMEOUT):
            assert await follower.closed() == b""


@pytest.mark.parametrize(("policy", "end"), [("cancel", ("interrupted", "client_disconnected")), ("continue", None)])
@pytest.mark.row("C4")
async def test_clients_that_stop_reading_have_left_and_delay_nobody(
    upstream: ScriptedUpstream, policy: str, end: tuple[str, str] | None
) -> None:
    """They have room for some 10 kB, while the model sends 60 kB in 3 seconds."""
    assert ON_LINUX
    upstream.texts = ("x" * 400,)
    async with serving(upstream, "tokens-150-20", on_disconnect=policy) as service, AsyncExitStack() as stack:
        await turns(service)
        before = await holdings(service)
        stalled = [await stack.enter_async_context(RawClient(service.url, receive_buffer=4096)) for _ in range(50)]
        for number, client in enumerate(stalled):
            client.post("/api/chat", body(f"stalled{number}"))
        async with httpx2.AsyncClient(base_url=service.url, timeout=30) as other:
            healthy = await asyncio.gather(
                *(other.post("/api/chat", json=body(f"user{number}")) for number in range(100))
            )
        ends = [await ended_turn(service, f"stalled{number}") for number in range(50)]
        await assert_no_more_than(replace(before, files=before.files + 50), service)  # their own ends stay open
    assert {len(ChatStream.of(reply.content).text) for reply in healthy} == {150 * 400}
    assert ends == [end or ("completed", None)] * 50


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/history/user?limit=200"])
@pytest.mark.row("C4")
async def test_a_client_that_stops_reading_holds_little_memory_for_a_short_time(
    upstream: ScriptedUpstream, path: str
) -> None:
    async with serving(upstream, "tokens-2500") as service, AsyncExitStack() as stack:
        posted = await service.client.post("/api/chat", json=body())
        path = f"/api/chat/turns/{posted.headers['x-turn-id']}/stream" if path == "/api/chat" else path
        before = await holdings(service)
        async with PeakMemory() as memory:
            stalled = [await stack.enter_async_context(RawClient(service.url, receive_buffer=4096)) for _ in range(100)]
            for client in stalled:
                client.request("GET", path)
            await asyncio.sleep(0.7)
        await assert_no_more_than(replace(before, files=before.files + 100), service)  # their own ends stay open
    assert len(posted.content) > 350_000
    assert memory.growth < 100 * 256_000


@pytest.mark.parametrize("character", ["x", "\x01"])
async def test_clients_that_stop_reading_a_page_hold_a_megabyte_each_for_a_short_time(
    upstream: ScriptedUpstream, character: str
) -> None:
    """A page is limited in bytes, whatever `limit` and the texts are; a control character takes six in JSON."""
    async with serving(upstream) as service, AsyncExitStack() as stack:
        for _ in range(32):
            await service.client.post("/api/chat/simple", json=body() | {"message": character * 31_999 + "."})
        page = await service.client.get("/api/chat/history/user?limit=200")
        before = await holdings(service)
        async with PeakMemory() as memory:
            stalled = [await stack.enter_async_context(RawClient(service.url, receive_buffer=4096)) for _ in range(50)]
            for client in stalled:
                client.request("GET", "/api/chat/history/user?limit=200")
            await asyncio.sleep(0.7)
        await assert_no_more_than(replace(before, files=before.files + 50), service)  # their own ends stay open
    assert 700_000 < len(page.content) < 1_000_000
    assert page.json()["next_cursor"] is not None
    assert memory.growth < 50 * 1_500_000


async def test_clients_that_stop_reading_a_file_hold_little_memory(upstream: ScriptedUpstream) -> None:
    """It is the largest response without a credential."""
    path = "/docs/swagger-ui-bundle.js"
    async with serving(upstream) as service, AsyncExitStack() as stack:
        file = await service.client.get(path)
        async with PeakMemory() as memory:
            stalled = [await stack.enter_async_context(RawClient(service.url, receive_buffer=4096)) for _ in range(50)]
            for client in stalled:
                client.request("GET", path)
            for client in stalled:
                assert await client.head() == 200
            await service.client.get("/livez")  # whatever can be sent at once was sent meanwhile
    assert len(file.content) > 1_500_000
    assert memory.growth < 50 * 500_000


@pytest.mark.parametrize("model", ["hang-3", "tokens-1000-10"])
@pytest.mark.row("C7")
async def test_a_client_that_vanishes_has_left(upstream: ScriptedUpstream, model: str) -> None:
    """Nothing that is sent to it is confirmed, whether keep-alive comments or a reply."""
    assert ON_LINUX
    async with serving(upstream, model, comment_interval=0.3) as service, RawClient(service.url) as client:
        client.post("/api/chat", body())
        await client.head()
        await client.events(1)
        receive_no_more(client.socket)
        assert await ended_turn(service) == ("interrupted", "client_disconnected")
        async with asyncio.timeout(TIMEOUT):
            await upstream.all_closed()
