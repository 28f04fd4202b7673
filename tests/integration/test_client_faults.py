"""Clients that leave, crawl or send nonsense: what becomes of their turns, and that nobody else notices."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.leaks import assert_no_more_than, assert_no_turn_left, holdings
from tests.harness.raw_client import RawClient
from tests.harness.scripted_upstream import TEXTS, ScriptedUpstream
from tests.harness.servers import Service, running_service
from tests.harness.service_log import ServiceLog

pytestmark = pytest.mark.server

STREAM, SIMPLE = "/api/chat", "/api/chat/simple"

WAYS_TO_LEAVE = ["fin", "rst", "half"]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[ServiceLog]:
    """The log, in which clients that come and go are nothing to warn of, whatever the test does."""
    log = ServiceLog(capsys)
    yield log
    assert "Traceback" not in log.text
    refusals = [line["event"] for line in log.lines if line["level"] not in ("debug", "info")]
    assert set(refusals) <= {"Invalid HTTP request received."}


@asynccontextmanager
async def serving(
    upstream: ScriptedUpstream, model: str, arguments: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A service that asks `model`; in the end no turn and no call of it is left."""
    async with running_service(
        arguments=arguments, openai_base_url=upstream.base_url, openai_api_key="any", openai_model=model, **settings
    ) as service:
        yield service
        await assert_no_turn_left(service)
        async with asyncio.timeout(5):
            await upstream.all_closed()


def say(user: str = "user", **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "message": "Hello", **fields}


def texts(count: int) -> str:
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


async def asked(upstream: ScriptedUpstream, times: int = 1) -> None:
    async def is_asked() -> bool:
        return len(upstream.requests) >= times

    await until(is_asked)


async def replies_so_far(service: Service, count: int) -> None:
    """Return when the service has got that many texts for each of the turns that all ways to leave are tried on."""

    async def have_come() -> bool:
        running = service.container.turn_runner()._running.values()
        return [len(one.reply.deltas) for one in running] == [count] * len(WAYS_TO_LEAVE)

    await until(have_come)


@asynccontextmanager
async def one_client_for_each_way_to_leave(
    service: Service, path: str, **fields: Any
) -> AsyncIterator[dict[str, RawClient]]:
    """Clients by the way that they are to leave in, which is their user's name too; each has sent its request."""
    async with AsyncExitStack() as stack:
        clients = {how: await stack.enter_async_context(RawClient(service.url)) for how in WAYS_TO_LEAVE}
        for how, client in clients.items():
            client.post(path, say(how, **fields))
        yield clients


async def leave_all(upstream: ScriptedUpstream, clients: dict[str, RawClient]) -> None:
    """All leave; return when no call to the model is open any more, which has to be soon."""
    for how, client in clients.items():
        client.leave(how)
    async with asyncio.timeout(3):
        await upstream.all_closed()


async def outcomes(service: Service) -> list[tuple[str, str | None, str]]:
    return [await outcome(service, how) for how in WAYS_TO_LEAVE]


@pytest.mark.parametrize("events", [0, 1, 3])
@pytest.mark.row("C1", "C2", "C3")
async def test_a_client_that_leaves_a_stream_ends_the_reply_where_it_stands(
    upstream: ScriptedUpstream, events: int
) -> None:
    async with (
        serving(upstream, "hang-3") as service,
        one_client_for_each_way_to_leave(service, STREAM) as clients,
    ):
        for client in clients.values():
            assert await client.head() == 200
            await client.events(events)
        await replies_so_far(service, 3)
        await leave_all(upstream, clients)
        assert await outcomes(service) == [("interrupted", "client_disconnected", texts(3))] * 3


@pytest.mark.parametrize("path", [STREAM, SIMPLE])
@pytest.mark.row("C1", "C2", "C3", "C6")
async def test_a_client_that_leaves_before_the_model_has_answered_ends_the_call(
    upstream: ScriptedUpstream, path: str
) -> None:
    async with (
        serving(upstream, "hanghead") as service,
        one_client_for_each_way_to_leave(service, path) as clients,
    ):
        await asked(upstream, times=3)
        await leave_all(upstream, clients)
        assert await outcomes(service) == [("interrupted", "client_disconnected", "")] * 3


@pytest.mark.row("C6")
async def test_a_client_that_waits_for_the_whole_reply_and_leaves_ends_it_too(upstream: ScriptedUpstream) -> None:
    async with (
        serving(upstream, "hang-3") as service,
        one_client_for_each_way_to_leave(service, SIMPLE) as clients,
    ):
        await replies_so_far(service, 3)
        await leave_all(upstream, clients)
        assert await outcomes(service) == [("interrupted", "client_disconnected", texts(3))] * 3


@pytest.mark.parametrize(("path", "events"), [(STREAM, 0), (STREAM, 5), (SIMPLE, 0)])
@pytest.mark.row("C1", "C2", "C3", "C6")
async def test_a_reply_that_is_to_go_on_is_completed_without_its_client(
    upstream: ScriptedUpstream, path: str, events: int
) -> None:
    async with (
        serving(upstream, "tokens-30-10") as service,
        one_client_for_each_way_to_leave(service, path, on_disconnect="continue") as clients,
    ):
        await asked(upstream, times=3)
        for how, client in clients.items():
            if path == STREAM:
                await client.head()
            await client.events(events)
            client.leave(how)
        assert await outcomes(service) == [("completed", None, texts(30))] * 3


async def test_the_services_own_policy_holds_where_a_request_names_none(upstream: ScriptedUpstream) -> None:
    async with (
        serving(upstream, "tokens-30-10", on_disconnect="continue") as service,
        one_client_for_each_way_to_leave(service, STREAM) as clients,
    ):
        await asked(upstream, times=3)
        await leave_all(upstream, clients)
        assert await outcomes(service) == [("completed", None, texts(30))] * 3


async def test_a_call_that_is_to_be_repeated_is_repeated_without_the_client_where_the_reply_is_to_go_on(
    upstream: ScriptedUpstream,
) -> None:
    async with serving(upstream, "500-1") as service, RawClient(service.url) as client:
        client.post(STREAM, say(on_disconnect="continue"))
        await asked(upstream)
        client.leave("fin")
        assert await outcome(service) == ("completed", None, texts(4))


async def test_a_client_that_leaves_in_the_middle_of_its_request_begins_no_turn(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "any") as service:
        before = await holdings(service)
        for how in WAYS_TO_LEAVE:
            async with RawClient(service.url) as client:
                client.request("POST", STREAM, "Content-Type: application/json\r\nContent-Length: 50", b'{"user_id"')
                await asyncio.sleep(0.05)
                client.leave(how)
        await assert_no_more_than(before, service)
        assert await turns(service) == []
    assert upstream.requests == []


async def test_a_reader_that_stays_keeps_the_reply_going_when_the_first_one_leaves(
    upstream: ScriptedUpstream,
) -> None:
    async with serving(upstream, "tokens-40-10") as service, RawClient(service.url) as first:
        first.post(STREAM, say())
        await first.head()
        async with RawClient(service.url) as second:
            second.request("GET", f"/api/chat/turns/{first.headers['x-turn-id']}/stream")
            await second.head()
            await second.events(1)
            first.leave("rst")
            await second.rest()
        assert second.stream.text == texts(40)
        assert await outcome(service) == ("completed", None, texts(40))


@pytest.mark.row("C20")
async def test_two_readers_of_a_reply_get_the_same_events(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "tokens-40-5") as service, RawClient(service.url) as first:
        first.post(STREAM, say())
        await first.head()
        async with RawClient(service.url) as second:
            second.request("GET", f"/api/chat/turns/{first.headers['x-turn-id']}/stream")
            await second.head()
            await asyncio.gather(first.rest(), second.rest())
    assert first.stream.last == {"content": "", "done": True}
    assert second.stream == first.stream


@pytest.mark.parametrize("cursor", ["header", "query"])
async def test_a_reader_that_rejoins_gets_what_it_has_missed_once_and_the_rest(
    upstream: ScriptedUpstream, cursor: str
) -> None:
    async with serving(upstream, "tokens-40-10") as service, RawClient(service.url) as client:
        client.post(STREAM, say(on_disconnect="continue"))
        await client.head()
        await client.events(5)
        client.leave("fin")
        got, url = client.stream, f"/api/chat/turns/{client.headers['x-turn-id']}/stream"
        seen = str(got.numbers[-1])
        query, headers = ({"after": seen}, {}) if cursor == "query" else ({}, {"Last-Event-ID": seen})
        rest = ChatStream.of((await service.client.get(url, params=query, headers=headers)).content)
        whole = ChatStream.of((await service.client.get(url)).content)
    assert got.numbers + rest.numbers == list(range(1, 43))
    assert got.data + rest.data == whole.data
    assert whole.text == texts(40)


async def test_a_finished_reply_is_followed_from_any_event_on(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "any") as service:
        posted = await service.client.post(STREAM, json=say())
        url = f"/api/chat/turns/{posted.headers['x-turn-id']}/stream"
        answers = [await service.client.get(url, params={"after": str(after)}) for after in range(8)]
    events = posted.text.split("\n\n")[:-1]
    assert [answer.status_code for answer in answers] == [200] * 6 + [204] * 2
    assert [answer.text.split("\n\n")[:-1] for answer in answers] == [events[after:] for after in range(8)]


async def test_a_cursor_that_is_no_number_is_refused(upstream: ScriptedUpstream) -> None:
    cursors = ["x", "-1", "1.5", "1e3", "٣", "9" * 30, " ", "0x10"]
    async with serving(upstream, "any") as service:
        posted = await service.client.post(STREAM, json=say())
        url = f"/api/chat/turns/{posted.headers['x-turn-id']}/stream"
        refused = [await service.client.get(url, params={"after": cursor}) for cursor in cursors]
    assert [answer.status_code for answer in refused] == [400] * len(cursors)
    assert {answer.json()["code"] for answer in refused} == {"invalid_request"}


async def test_a_turn_that_is_not_there_can_not_be_followed(upstream: ScriptedUpstream) -> None:
    ids = ["00000000-0000-4000-8000-000000000000", "nonsense", "%00", "x" * 3000]
    async with serving(upstream, "any") as service:
        refused = [await service.client.get(f"/api/chat/turns/{turn_id}/stream") for turn_id in ids]
    assert [answer.status_code for answer in refused] == [404] * len(ids)
    assert {answer.json()["code"] for answer in refused} == {"turn_not_found"}


@pytest.mark.row("C19")
async def test_a_reply_that_ended_long_ago_is_to_be_read_in_the_history(
    upstream: ScriptedUpstream,
) -> None:
    async with serving(upstream, "any", {"live_turns": {"retention": -1.0}}) as service:
        posted = await service.client.post(STREAM, json=say())
        expired = await service.client.get(f"/api/chat/turns/{posted.headers['x-turn-id']}/stream")
        history = await service.client.get(expired.json()["history"])
    assert (expired.status_code, expired.json()["code"]) == (410, "stream_expired")
    assert [turn["id"] for turn in history.json()["history"]] == [posted.headers["x-turn-id"]]


async def test_a_slow_reader_disturbs_nobody_and_gets_every_byte(upstream: ScriptedUpstream) -> None:
    upstream.texts = ("x" * 99,)
    async with (
        serving(upstream, "tokens-2500", on_disconnect="continue") as service,
        RawClient(service.url, receive_buffer=4096) as slow,
    ):
        slow.post(STREAM, say("slow"))
        await slow.head()
        hurry = asyncio.Event()
        reading = asyncio.create_task(_read_slowly(slow, hurry))
        others = [f"user{number}" for number in range(5)]
        async with asyncio.timeout(30):
            replies = await asyncio.gather(*(service.client.post(STREAM, json=say(user)) for user in others))
        turn = await ended_turn(service, "slow")
        assert not reading.done()
        hurry.set()
        await reading
        again = await service.client.get(f"/api/chat/turns/{turn['id']}/stream")
    assert {len(ChatStream.of(reply.content).text) for reply in replies} == {2500 * 99}
    assert turn["status"] == "completed"
    assert slow.body == again.content


async def _read_slowly(client: RawClient, hurry: asyncio.Event) -> None:
    """A kilobyte a second, as far as whole chunks allow, until told to hurry."""
    while data := await client.chunk():
        with suppress(TimeoutError):
            async with asyncio.timeout(len(data) / 1000):
                await hurry.wait()


@pytest.mark.row("C1", "C2", "C3", "C6")
async def test_clients_that_leave_at_any_moment_leave_nothing_behind(upstream: ScriptedUpstream) -> None:
    chance = random.Random(7)
    async with serving(upstream, "tokens-60-5") as service:
        await service.client.post(SIMPLE, json=say("warm"))
        before = await holdings(service)
        plans = itertools.product([STREAM, SIMPLE], ["cancel", "continue"], WAYS_TO_LEAVE, range(5))
        received = await asyncio.gather(
            *(
                _leave_after(service, f"user{number}", path, policy, how, chance.uniform(0, 0.6))
                for number, (path, policy, how, _) in enumerate(plans)
            )
        )
        await assert_no_more_than(before, service)
        stored = [await turns(service, f"user{number}") for number in range(len(received))]
        for (policy, got), kept in zip(received, stored, strict=True):
            assert_kept(policy, got, kept)
    assert len(received) == 60


async def _leave_after(
    service: Service, user: str, path: str, policy: str, how: str, seconds: float
) -> tuple[str, str]:
    """How the client wanted it, and the text that it got until it left."""
    async with RawClient(service.url) as client:
        client.post(path, say(user, on_disconnect=policy))
        try:
            async with asyncio.timeout(seconds):
                await client.head()
                await client.rest()
        except TimeoutError:
            client.leave(how)
            await asyncio.sleep(0.01)
        return policy, client.stream.text if path == STREAM else ""


def assert_kept(policy: str, got: str, kept: list[dict[str, Any]]) -> None:
    """A turn, if it came to one, that holds the beginning of the reply, and at least what the client has got."""
    assert len(kept) == 1 or not got
    for turn in kept:
        text = turn["assistant_response"]
        whole = ("completed", None, texts(60))
        ends = [whole] if policy == "continue" else [whole, ("interrupted", "client_disconnected", text)]
        assert (turn["status"], turn["reason"], text) in ends
        assert texts(60).startswith(text)
        assert text.startswith(got)


@pytest.mark.parametrize("announced", [300_000, 3_000_000])
async def test_a_body_that_says_it_is_too_large_is_refused_unread(upstream: ScriptedUpstream, announced: int) -> None:
    async with serving(upstream, "any") as service, RawClient(service.url) as client:
        client.request("POST", STREAM, f"Content-Type: application/json\r\nContent-Length: {announced}")
        assert await client.head() == 413
        await client.rest()
        await client.closed()
        assert await turns(service) == []
    assert json.loads(client.body)["code"] == "body_too_large"
    assert upstream.requests == []


async def test_a_body_that_grows_too_large_is_refused_before_its_end(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, "any") as service, RawClient(service.url) as client:
        client.request("POST", STREAM, "Content-Type: application/json\r\nTransfer-Encoding: chunked")
        for _ in range(64):
            client.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert await client.head() == 413
        await client.rest()
        await client.closed()
        assert await turns(service) == []
    assert json.loads(client.body)["code"] == "body_too_large"


async def test_a_body_that_is_longer_than_it_says_does_not_become_a_second_request(
    upstream: ScriptedUpstream,
) -> None:
    body = json.dumps(say()).encode()
    async with serving(upstream, "any") as service, RawClient(service.url) as client:
        headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        client.request("POST", SIMPLE, headers, body + b"x" * 300_000)
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
async def test_a_body_that_no_parser_should_take_is_refused(upstream: ScriptedUpstream, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with serving(upstream, "any") as service:
        answers = {name: await service.client.post(path, content=body, headers=headers) for name, body in BOMBS.items()}
        assert await turns(service, "u") == []
    codes = {name: (answer.status_code, answer.json()["code"]) for name, answer in answers.items()}
    assert codes == dict.fromkeys(BOMBS, (400, "malformed_json"))


@pytest.mark.row("X8")
async def test_a_body_with_very_many_keys_is_answered_as_usual(upstream: ScriptedUpstream) -> None:
    many: dict[str, Any] = {f"k{number}": 0 for number in range(20_000)}
    async with serving(upstream, "any") as service:
        answer = await service.client.post(SIMPLE, json=say(**many))
    assert answer.status_code == 200
