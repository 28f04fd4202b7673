"""Clients that disconnect, read slowly or send garbage: how their turns end, and that other clients are unaffected."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from entrypoints.connection import Connection
from tests.harness.chat_stream import ChatStream
from tests.harness.leaks import PeakMemory, assert_no_more_than, assert_no_turn_left, holdings
from tests.harness.raw_client import RawClient
from tests.harness.scripted_upstream import TEXTS, ScriptedUpstream
from tests.harness.servers import Service, running_service
from tests.harness.service_log import ServiceLog

pytestmark = pytest.mark.server

STREAM, SIMPLE = "/api/chat", "/api/chat/simple"

DISCONNECTS = ["fin", "rst", "half"]
"""How a client can disconnect: see `RawClient.leave`."""


FREQUENT_SAVES = {"turn_runner": {"save_interval": 0.02}}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[ServiceLog]:
    """The log. At the end of each test it contains no warnings about clients."""
    log = ServiceLog(capsys)
    yield log
    assert "Traceback" not in log.text
    assert log.levels() <= {"debug", "info"}


@asynccontextmanager
async def serving(
    upstream: ScriptedUpstream, model: str, arguments: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A service that uses `model`. No turn and no call to the model is left at the end."""
    async with running_service(
        arguments=arguments, openai_base_url=upstream.base_url, openai_api_key="any", openai_model=model, **settings
    ) as service:
        yield service
        await assert_no_turn_left(service)
        async with asyncio.timeout(5):
            await upstream.all_closed()


def body(user: str = "user", **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "message": "Hello", **fields}


def first_deltas(count: int) -> str:
    """Return the text of the first deltas that the model sends."""
    return "".join(TEXTS[index % len(TEXTS)] for index in range(count))


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def turns(service: Service, user: str = "user") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await service.client.get(f"/api/chat/history/{user}")).json()["history"]
    return listed


async def ended_turn(service: Service, user: str = "user") -> dict[str, Any]:
    """The user's only turn, once it has ended."""

    async def ended() -> bool:
        return [turn["status"] for turn in await turns(service, user)] not in ([], ["in_progress"])

    await until(ended)
    (turn,) = await turns(service, user)
    return turn


async def outcome(service: Service, user: str = "user") -> tuple[str, str | None, str]:
    turn = await ended_turn(service, user)
    return turn["status"], turn["reason"], turn["assistant_response"]


async def wait_for_requests(upstream: ScriptedUpstream, count: int = 1) -> None:
    async def received() -> bool:
        return len(upstream.requests) >= count

    await until(received)


async def wait_for_progress(service: Service, text: str) -> None:
    """Wait until the turn of each client has this text in the history."""

    async def stored() -> bool:
        running = [turn for user in DISCONNECTS for turn in await turns(service, user)]
        return [turn["assistant_response"] for turn in running] == [text] * len(DISCONNECTS)

    await until(stored)


@asynccontextmanager
async def connected_clients(service: Service, path: str, **fields: Any) -> AsyncIterator[dict[str, RawClient]]:
    """One client for each of `DISCONNECTS`, which is also its user id. Each has sent its request."""
    async with AsyncExitStack() as stack:
        clients = {how: await stack.enter_async_context(RawClient(service.url)) for how in DISCONNECTS}
        for how, client in clients.items():
            client.post(path, body(how, **fields))
        yield clients


async def disconnect_all(upstream: ScriptedUpstream, clients: dict[str, RawClient]) -> None:
    """Disconnect all clients, and wait until all calls to the model are closed."""
    for how, client in clients.items():
        client.leave(how)
    async with asyncio.timeout(3):
        await upstream.all_closed()


async def outcomes(service: Service) -> list[tuple[str, str | None, str]]:
    return [await outcome(service, how) for how in DISCONNECTS]


@pytest.mark.parametrize("events", [0, 1, 3])
@pytest.mark.row("C1", "C2", "C3")
async def test_a_client_that_disconnects_from_a_stream_stops_the_reply(upstream: ScriptedUpstream, events: int) -> None:
    async with (
        serving(upstream, "hang-3", FREQUENT_SAVES) as service,
        connected_clients(service, STREAM) as clients,
    ):
        for client in clients.values():
            assert await client.head() == 200
            await client.events(events)
        await wait_for_progress(service, first_deltas(3))
        await disconnect_all(upstream, clients)
        assert await outcomes(service) == [("interrupted", "client_disconnected", first_deltas(3))] * 3


@pytest.mark.parametrize("path", [STREAM, SIMPLE])
@pytest.mark.row("C1", "C2", "C3", "C6")
async def test_a_client_that_disconnects_before_the_model_responds_ends_the_call(
    upstream: ScriptedUpstream, path: str
) -> None:
    async with (
        serving(upstream, "hanghead") as service,
        connected_clients(service, path) as clients,
    ):
        await wait_for_requests(upstream, 3)
        await disconnect_all(upstream, clients)
        assert await outcomes(service) == [("interrupted", "client_disconnected", "")] * 3


@pytest.mark.row("C6")
async def test_a_client_that_disconnects_from_a_simple_request_stops_the_reply(upstream: ScriptedUpstream) -> None:
    async with (
        serving(upstream, "hang-3", FREQUENT_SAVES) as service,
        connected_clients(service, SIMPLE) as clients,
    ):
        await wait_for_progress(service, first_deltas(3))
        await disconnect_all(upstream, clients)
        assert await outcomes(service) == [("interrupted", "client_disconnected", first_deltas(3))] * 3


def pipelined(path: str, fields: dict[str, Any]) -> bytes:
    """Return a POST after which the connection stays open."""
    data = json.dumps(fields).encode()
    lines = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {len(data)}", "", "")
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines]).encode() + data


@pytest.mark.parametrize("path", [STREAM, SIMPLE])
@pytest.mark.parametrize("how", DISCONNECTS)
@pytest.mark.parametrize("queued", ["a request", "large requests", "part of a request"])
async def test_a_client_that_disconnects_with_a_pipelined_request_stops_the_reply(
    upstream: ScriptedUpstream, path: str, how: str, queued: str
) -> None:
    requests = {
        "a request": pipelined(SIMPLE, body("second")),
        "large requests": pipelined(SIMPLE, body("second", padding="x" * 200_000)) * 4,
        "part of a request": pipelined(SIMPLE, body("second"))[:-1],
    }
    async with serving(upstream, "hang-3") as service, RawClient(service.url) as client:
        client.send(pipelined(path, body()))
        await wait_for_requests(upstream)
        client.send(requests[queued])
        await asyncio.sleep(0.1)
        client.leave(how)
        async with asyncio.timeout(3):
            await upstream.all_closed()
        assert await outcome(service) == ("interrupted", "client_disconnected", first_deltas(3))
        assert await turns(service, "second") == []
    assert len(upstream.requests) == 1


async def test_pipelined_requests_are_answered_in_order(upstream: ScriptedUpstream) -> None:
    paths = [STREAM, SIMPLE] * 10
    async with serving(upstream, "tokens-3-10") as service, RawClient(service.url) as client:
        client.send(b"".join(pipelined(path, body(f"user{number}")) for number, path in enumerate(paths)))
        replies = []
        for _ in paths:
            await client.head()
            client.body = b""
            await client.rest()
            replies.append(client.body)
    streamed, whole = replies[::2], [json.loads(reply) for reply in replies[1::2]]
    assert [ChatStream.of(reply).text for reply in streamed] == [first_deltas(3)] * 10
    assert [reply["user_id"] for reply in whole] == [f"user{number}" for number in range(1, 20, 2)]


H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n\r\n"
)


@pytest.mark.parametrize("size", [7, 100, 10_000])
async def test_requests_that_offer_http_2_are_served_as_http_1(upstream: ScriptedUpstream, size: int) -> None:
    """As Java's HttpClient sends them, several behind each other, received in pieces of any size."""
    sent = b"".join(
        pipelined(SIMPLE, body(f"user{number}")).replace(b"\r\n\r\n", b"\r\n" + H2C, 1) if offers else plain
        for number, offers in enumerate([True, False, True, True])
        for plain in [pipelined(SIMPLE, body(f"user{number}"))]
    )
    async with serving(upstream, "tokens-3-10") as service, RawClient(service.url) as client:
        for start in range(0, len(sent), size):
            client.send(sent[start : start + size])
            await asyncio.sleep(0.001)
        users = []
        for _ in range(4):
            await client.head()
            client.body = b""
            await client.rest()
            users.append(json.loads(client.body)["user_id"])
    assert users == ["user0", "user1", "user2", "user3"]


async def test_offers_of_other_protocols_change_nothing_else(upstream: ScriptedUpstream) -> None:
    connect = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n"
    websocket = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with serving(upstream, "tokens-3-10") as service:
        async with RawClient(service.url) as client:
            client.send(websocket)
            assert (await client.head(), client.headers["connection"]) == (200, "close")
        async with RawClient(service.url) as client:
            client.send(connect)
            assert await client.head() == 400


async def test_more_than_the_queue_may_hold_is_read_when_the_response_ends(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "max_queued_bytes", 1_000)
    async with serving(upstream, "tokens-20-10") as service, RawClient(service.url) as client:
        client.send(pipelined(SIMPLE, body("first")))
        await wait_for_requests(upstream)
        for user in ("second", "third"):
            client.send(pipelined(SIMPLE, body(user, padding="x" * 100_000)))
            await asyncio.sleep(0.05)
        replies = []
        for _ in range(3):
            await client.head()
            client.body = b""
            await client.rest()
            replies.append(json.loads(client.body)["user_id"])
    assert replies == ["first", "second", "third"]


async def test_headers_without_end_are_not_read_while_a_response_runs(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    receive = Connection.data_received

    def recorded(connection: Connection, data: bytes) -> None:
        sizes.append(len(data))
        receive(connection, data)

    monkeypatch.setattr(Connection, "data_received", recorded)
    async with serving(upstream, "tokens-200-10") as service, RawClient(service.url) as client:
        client.send(pipelined(STREAM, body()))
        await wait_for_requests(upstream)
        client.send(pipelined(SIMPLE, body("second")))
        client.send(b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 1_000 + b"\r\n") * 20_000)
        await asyncio.sleep(1)
        read = sum(sizes)
        client.leave("rst")
        assert (await outcome(service))[:2] == ("interrupted", "client_disconnected")
    assert read < 2 * Connection.max_queued_bytes


@pytest.mark.parametrize(("path", "events"), [(STREAM, 0), (STREAM, 5), (SIMPLE, 0)])
@pytest.mark.row("C1", "C2", "C3", "C6")
async def test_a_reply_is_completed_without_its_client_if_requested(
    upstream: ScriptedUpstream, path: str, events: int
) -> None:
    async with (
        serving(upstream, "tokens-30-10") as service,
        connected_clients(service, path, on_disconnect="continue") as clients,
    ):
        await wait_for_requests(upstream, 3)
        for how, client in clients.items():
            if path == STREAM:
                await client.head()
            await client.events(events)
            client.leave(how)
        assert await outcomes(service) == [("completed", None, first_deltas(30))] * 3


async def test_the_setting_applies_if_the_request_does_not_choose(upstream: ScriptedUpstream) -> None:
    async with (
        serving(upstream, "tokens-30-10", on_disconnect="continue") as service,
        connected_clients(service, STREAM) as clients,
    ):
        await wait_for_requests(upstream, 3)
        await disconnect_all(upstream, clients)
        assert await outcomes(service) == [("completed", None, first_deltas(30))] * 3


async def test_a_failed_call_is_retried_after_its_client_has_disconnected(
    upstream: ScriptedUpstream,
) -> None:
    async with serving(upstream, "500-1") as service, RawClient(service.url) as client:
        client.post(STREAM, body(on_disconnect="continue"))
        await wait_for_requests(upstream)
        client.leave("fin")
        assert await outcome(service) == ("completed", None, first_deltas(4))


async def test_a_client_that_disconnects_within_its_request_begins_no_turn(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "any") as service:
        before = await holdings(service)
        for how in DISCONNECTS:
            async with RawClient(service.url) as client:
                client.request("POST", STREAM, "Content-Type: application/json\r\nContent-Length: 50", b'{"user_id"')
                await asyncio.sleep(0.05)
                client.leave(how)
        await assert_no_more_than(before, service)
        assert await turns(service) == []
    assert upstream.requests == []


async def test_a_reply_continues_while_a_second_reader_is_connected(
    upstream: ScriptedUpstream,
) -> None:
    async with serving(upstream, "tokens-40-10") as service, RawClient(service.url) as first:
        first.post(STREAM, body())
        await first.head()
        async with RawClient(service.url) as second:
            second.request("GET", f"/api/chat/turns/{first.headers['x-turn-id']}/stream")
            await second.head()
            await second.events(1)
            first.leave("rst")
            await second.rest()
        assert second.stream.text == first_deltas(40)
        assert await outcome(service) == ("completed", None, first_deltas(40))


@pytest.mark.row("C20")
async def test_two_readers_of_a_reply_receive_the_same_events(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "tokens-40-5") as service, RawClient(service.url) as first:
        first.post(STREAM, body())
        await first.head()
        async with RawClient(service.url) as second:
            second.request("GET", f"/api/chat/turns/{first.headers['x-turn-id']}/stream")
            await second.head()
            await asyncio.gather(first.rest(), second.rest())
    assert first.stream.last == {"content": "", "done": True}
    assert second.stream == first.stream


@pytest.mark.parametrize("cursor", ["header", "query"])
async def test_a_client_that_rejoins_receives_every_missed_event_once(upstream: ScriptedUpstream, cursor: str) -> None:
    async with serving(upstream, "tokens-40-10") as service, RawClient(service.url) as client:
        client.post(STREAM, body(on_disconnect="continue"))
        await client.head()
        await client.events(5)
        client.leave("fin")
        first, url = client.stream, f"/api/chat/turns/{client.headers['x-turn-id']}/stream"
        seen = str(first.numbers[-1])
        query, headers = ({"after": seen}, {}) if cursor == "query" else ({}, {"Last-Event-ID": seen})
        rest = ChatStream.of((await service.client.get(url, params=query, headers=headers)).content)
        whole = ChatStream.of((await service.client.get(url)).content)
    assert first.numbers + rest.numbers == list(range(1, 43))
    assert first.data + rest.data == whole.data
    assert whole.text == first_deltas(40)


async def test_a_finished_reply_is_replayed_after_any_event(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "any") as service:
        posted = await service.client.post(STREAM, json=body())
        url = f"/api/chat/turns/{posted.headers['x-turn-id']}/stream"
        responses = [await service.client.get(url, params={"after": str(after)}) for after in range(8)]
    events = posted.text.split("\n\n")[:-1]
    assert [response.status_code for response in responses] == [200] * 6 + [204] * 2
    assert [response.text.split("\n\n")[:-1] for response in responses] == [events[after:] for after in range(8)]


async def test_an_invalid_cursor_is_rejected(upstream: ScriptedUpstream) -> None:
    cursors = ["x", "-1", "1.5", "1e3", "٣", "9" * 30, " ", "0x10"]
    async with serving(upstream, "any") as service:
        posted = await service.client.post(STREAM, json=body())
        url = f"/api/chat/turns/{posted.headers['x-turn-id']}/stream"
        rejected = [await service.client.get(url, params={"after": cursor}) for cursor in cursors]
    assert [response.status_code for response in rejected] == [400] * len(cursors)
    assert {response.json()["code"] for response in rejected} == {"invalid_request"}


async def test_an_unknown_turn_cannot_be_followed(upstream: ScriptedUpstream) -> None:
    ids = ["00000000-0000-4000-8000-000000000000", "nonsense", "%00", "x" * 3000]
    async with serving(upstream, "any") as service:
        rejected = [await service.client.get(f"/api/chat/turns/{turn_id}/stream") for turn_id in ids]
    assert [response.status_code for response in rejected] == [404] * len(ids)
    assert {response.json()["code"] for response in rejected} == {"turn_not_found"}


@pytest.mark.row("C19")
async def test_an_expired_stream_links_to_the_history(
    upstream: ScriptedUpstream,
) -> None:
    async with serving(upstream, "any", {"live_turns": {"retention": -1.0}}) as service:
        posted = await service.client.post(STREAM, json=body())
        expired = await service.client.get(f"/api/chat/turns/{posted.headers['x-turn-id']}/stream")
        history = await service.client.get(expired.json()["history"])
    assert (expired.status_code, expired.json()["code"]) == (410, "stream_expired")
    assert [turn["id"] for turn in history.json()["history"]] == [posted.headers["x-turn-id"]]


async def test_a_slow_reader_delays_no_other_client_and_receives_every_byte(upstream: ScriptedUpstream) -> None:
    upstream.texts = ("x" * 99,)
    async with (
        serving(upstream, "tokens-2500", on_disconnect="continue") as service,
        RawClient(service.url, receive_buffer=4096) as slow,
    ):
        slow.post(STREAM, body("slow"))
        await slow.head()
        hurry = asyncio.Event()
        reading = asyncio.create_task(_read_slowly(slow, hurry))
        others = [f"user{number}" for number in range(5)]
        async with asyncio.timeout(30):
            replies = await asyncio.gather(*(service.client.post(STREAM, json=body(user)) for user in others))
        turn = await ended_turn(service, "slow")
        assert not reading.done()
        hurry.set()
        await reading
        again = await service.client.get(f"/api/chat/turns/{turn['id']}/stream")
    assert {len(ChatStream.of(reply.content).text) for reply in replies} == {2500 * 99}
    assert turn["status"] == "completed"
    assert slow.body == again.content


async def _read_slowly(client: RawClient, hurry: asyncio.Event) -> None:
    """Read about one kilobyte a second, until `hurry` is set."""
    while data := await client.chunk():
        with suppress(TimeoutError):
            async with asyncio.timeout(len(data) / 1000):
                await hurry.wait()


@pytest.mark.row("C1", "C2", "C3", "C6")
async def test_clients_that_disconnect_at_random_moments_leak_nothing(upstream: ScriptedUpstream) -> None:
    chance = random.Random(7)
    async with serving(upstream, "tokens-60-5") as service:
        await service.client.post(SIMPLE, json=body("warm"))
        before = await holdings(service)
        plans = itertools.product([STREAM, SIMPLE], ["cancel", "continue"], DISCONNECTS, range(5))
        received = await asyncio.gather(
            *(
                _disconnect_after(service, f"user{number}", path, policy, how, chance.uniform(0, 0.6))
                for number, (path, policy, how, _) in enumerate(plans)
            )
        )
        await assert_no_more_than(before, service)
        stored = [await turns(service, f"user{number}") for number in range(len(received))]
        for (policy, text), found in zip(received, stored, strict=True):
            assert_stored(policy, text, found)
    assert len(received) == 60


async def _disconnect_after(
    service: Service, user: str, path: str, policy: str, how: str, seconds: float
) -> tuple[str, str]:
    """Return the policy and the text received before disconnecting."""
    async with RawClient(service.url) as client:
        client.post(path, body(user, on_disconnect=policy))
        try:
            async with asyncio.timeout(seconds):
                await client.head()
                await client.rest()
        except TimeoutError:
            client.leave(how)
            await asyncio.sleep(0.01)
        return policy, client.stream.text if path == STREAM else ""


def assert_stored(policy: str, received: str, stored: list[dict[str, Any]]) -> None:
    """Check that the turn, if it began, has a prefix of the reply that contains everything the client received."""
    assert len(stored) == 1 or (not stored and not received)
    for turn in stored:
        text = turn["assistant_response"]
        completed = ("completed", None, first_deltas(60))
        ends = [completed] if policy == "continue" else [completed, ("interrupted", "client_disconnected", text)]
        assert (turn["status"], turn["reason"], text) in ends
        assert first_deltas(60).startswith(text)
        assert text.startswith(received)


@pytest.mark.parametrize("announced", [500_000, 3_000_000])
@pytest.mark.row("C11")
async def test_a_body_with_an_oversized_content_length_is_rejected_before_it_is_read(
    upstream: ScriptedUpstream, announced: int
) -> None:
    async with serving(upstream, "any") as service, RawClient(service.url) as client:
        client.request("POST", STREAM, f"Content-Type: application/json\r\nContent-Length: {announced}")
        assert await client.head() == 413
        await client.rest()
        await client.closed()
        assert await turns(service) == []
    assert json.loads(client.body)["code"] == "body_too_large"
    assert upstream.requests == []


@pytest.mark.row("C11")
async def test_a_chunked_body_is_rejected_as_soon_as_it_exceeds_the_limit(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "any", max_body_bytes=200_000) as service, RawClient(service.url) as client:
        client.request("POST", STREAM, "Content-Type: application/json\r\nTransfer-Encoding: chunked")
        for _ in range(64):
            client.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert await client.head() == 413
        await client.rest()
        await client.closed()
        assert await turns(service) == []
    assert json.loads(client.body)["code"] == "body_too_large"


@pytest.mark.row("C11")
async def test_bodies_without_end_take_no_memory(upstream: ScriptedUpstream, log: ServiceLog) -> None:
    async def send_without_end(service: Service) -> None:
        async with RawClient(service.url) as client:
            client.request("POST", STREAM, "Content-Type: application/json\r\nTransfer-Encoding: chunked")
            for _ in range(300):
                if await client.has_room():
                    client.send(b"186a0\r\n" + b" " * 100_000 + b"\r\n")
            await client.closed()

    async with serving(upstream, "any") as service:
        await asyncio.gather(*(send_without_end(service) for _ in range(10)))
        async with PeakMemory() as memory:
            await asyncio.gather(*(send_without_end(service) for _ in range(10)))
        assert await turns(service) == []
    assert memory.growth < 20_000_000  # of up to 300 MB that are sent
    assert [line["status"] for line in log.events("request") if line["method"] == "POST"] == [413] * 20


@pytest.mark.row("C11")
async def test_bytes_beyond_the_content_length_do_not_become_a_second_request(
    upstream: ScriptedUpstream,
) -> None:
    data = json.dumps(body()).encode()
    async with serving(upstream, "any") as service, RawClient(service.url) as client:
        headers = f"Content-Type: application/json\r\nContent-Length: {len(data)}"
        client.request("POST", SIMPLE, headers, data + b"x" * 300_000)
        assert await client.head() in (200, 400)
        async with asyncio.timeout(10):
            await client.closed()
        assert len(await turns(service)) <= 1
    assert len(upstream.requests) <= 1


BOMBS = {
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"a":' * 40_000,
    "deep and closed": b'{"user_id": "u", "message": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "infinite number": b'{"user_id": "u", "message": "m", "x": 1e999}',
    "endless integer": b'{"user_id": "u", "message": "m", "x": ' + b"9" * 5_000 + b"}",
    "not a number": b'{"user_id": "u", "message": "m", "x": NaN}',
    "same key twice": b'{"user_id": "u", "message": "m", "message": "n"}',
    "cut off": b'{"user_id": "u", "mess',
    "not UTF-8": b'{"user_id": "u", "message": "\xff"}',
    "empty": b"",
}


@pytest.mark.parametrize("path", [STREAM, SIMPLE])
@pytest.mark.row("X8")
async def test_a_json_bomb_is_rejected(upstream: ScriptedUpstream, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with serving(upstream, "any") as service:
        responses = {
            name: await service.client.post(path, content=bomb, headers=headers) for name, bomb in BOMBS.items()
        }
        assert await turns(service, "u") == []
    codes = {name: (response.status_code, response.json()["code"]) for name, response in responses.items()}
    assert codes == dict.fromkeys(BOMBS, (400, "malformed_json"))


@pytest.mark.row("X8")
async def test_a_body_with_many_keys_is_accepted(upstream: ScriptedUpstream) -> None:
    many: dict[str, Any] = {f"k{number}": 0 for number in range(20_000)}
    async with serving(upstream, "any") as service:
        response = await service.client.post(SIMPLE, json=body(**many))
    assert response.status_code == 200
