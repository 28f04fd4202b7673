"""The adapter of Mem0's hosted service over real sockets: what it sends, and what it makes of a slow, broken, lying
service. The stand-in runs on the test's own event loop: whatever blocked that would wait for itself for ever."""

import asyncio
import hashlib
import logging
import random
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from adapters.mem0_import import import_mem0
from adapters.mem0_platform.size_limit import LIMIT
from adapters.memory_mem0_platform import MemoryMem0Platform
from application.ports.memory import MemoryLeaked, MemoryRefused, MemoryUnavailable
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import ChatError, MemoryNotFound, UnknownCursor
from domain.memory import MAX_FACT_CHARS, MemoryId
from tests.harness.mem0_platform import KEY, NO_LAG, Fault, Lag, Mem0Platform
from tests.harness.mem0_platform_faults import (
    after,
    drip,
    flood,
    garbage,
    hang,
    leaking,
    reset,
    saying,
    slow,
    status,
    unheard,
)
from tests.harness.servers import clean_environment

ADA, BOB = UserId("ada"), UserId("bob")
CANARY = "canary-of-the-user"

Call = Callable[[MemoryMem0Platform], Awaitable[object]]


@pytest.fixture
async def platform() -> AsyncIterator[Mem0Platform]:
    async with Mem0Platform() as platform:
        yield platform


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


class Memories:
    """Makes adapters, and closes them in the end."""

    def __init__(self, platform: Mem0Platform, data_dir: Path) -> None:
        self._platform = platform
        self._data_dir = data_dir
        self._made: list[MemoryMem0Platform] = []

    async def __call__(self, **options: Any) -> MemoryMem0Platform:
        limits = {"request_timeout": 0.5, "settle_timeout": 2, "forget_interval": 0.05}
        given = {"api_key": KEY, "host": self._platform.host, "data_dir": self._data_dir, **limits, **options}
        memory = MemoryMem0Platform(**given)
        self._made.append(memory)
        await memory.open()
        self._platform.requests.clear()
        return memory

    async def close(self) -> None:
        for memory in self._made:
            await memory.close()


@pytest.fixture
async def memories(platform: Mem0Platform, data_dir: Path) -> AsyncIterator[Memories]:
    memories = Memories(platform, data_dir)
    yield memories
    await memories.close()


@pytest.fixture
async def memory(memories: Memories) -> MemoryMem0Platform:
    return await memories()


def completed(message: str = "My dog is called Bello", reply: str = "What a name.", user_id: UserId = ADA) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message)
    return turn.completed(reply, "stop")


async def facts(memory: MemoryMem0Platform, user_id: UserId = ADA) -> list[str]:
    page = await memory.page(user_id, 200, None)
    return [one.fact for one in page.items]


async def forgotten(memory: MemoryMem0Platform, user_id: UserId) -> None:
    while not await memory.forget_all(user_id):
        await asyncio.sleep(0.02)


def operations(platform: Mem0Platform) -> list[str]:
    return [request.operation for request in platform.requests]


# What is sent


async def test_every_request_says_whose_it_is(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.recall(ADA, "tea", 3)
    headers = platform.requests[0].headers

    assert headers["authorization"] == f"Token {KEY}"
    assert headers["mem0-user-id"] == hashlib.md5(KEY.encode()).hexdigest()
    assert headers["x-mem0-client"].startswith("mem0-python/")
    assert headers["accept-encoding"] == "identity"


async def test_a_fact_is_added_as_it_is_and_then_looked_for(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    stored = await memory.store(ADA, "likes tea", 0.7)
    add, event, listing, search = platform.requests
    key = add.body["metadata"]["fact_key"]

    assert (add.method, add.target) == ("POST", "/v3/memories/add/")
    assert add.body == {
        "messages": [{"role": "user", "content": "likes tea"}],
        "user_id": "ada",
        "metadata": {"fact_key": key, "importance": 0.7, "created_at": stored.created_at.isoformat()},
        "infer": False,
    }
    assert (event.method, event.target) == ("GET", f"/v1/event/{next(iter(platform.events))}/")
    assert (listing.method, listing.target) == ("POST", "/v3/memories/?page=1&page_size=100")
    assert listing.body == {"filters": {"AND": [{"user_id": "ada"}, {"metadata": {"fact_key": key}}]}}
    by_id = {"AND": [{"user_id": "ada"}, {"memory_ids": [stored.id]}]}
    assert (search.method, search.target) == ("POST", "/v3/memories/search/")
    assert search.body == {"query": "likes tea", "filters": by_id, "top_k": 10, "threshold": 0.0}


async def test_a_long_fact_is_looked_for_by_its_beginning(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.store(ADA, "x" * MAX_FACT_CHARS, 0.5)

    assert platform.sent("search")[0].body["query"] == "x" * 1_000


async def test_of_a_turn_both_sides_are_given_to_infer_from(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    turn = completed("My dog is called Bello", "What a name.")
    await memory.remember(turn)

    assert operations(platform) == ["list", "add", "event", "list"]
    assert platform.sent("add")[0].body == {
        "messages": [
            {"role": "user", "content": "My dog is called Bello"},
            {"role": "assistant", "content": "What a name."},
        ],
        "user_id": "ada",
        "metadata": {"turn_id": turn.id, "importance": 0.5, "created_at": turn.started_at.isoformat()},
        "infer": True,
    }


async def test_without_inference_only_what_the_user_said_is_kept(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(infer=False)
    await memory.remember(completed("My dog is called Bello", "What a name."))
    await memory.remember(completed("x" * (MAX_FACT_CHARS + 1)))
    await memory.remember(completed("What is my dog called?"))

    assert platform.sent("add")[0].body["messages"] == [{"role": "user", "content": "My dog is called Bello"}]
    assert platform.sent("add")[0].body["infer"] is False
    assert sorted(await facts(memory)) == ["My dog is called Bello", "x" * MAX_FACT_CHARS]


async def test_a_query_goes_with_filters_and_a_limit(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.recall(ADA, "  which tea?" + "x" * 2_000, 3)

    assert platform.requests[0].body == {
        "query": ("  which tea?" + "x" * 2_000)[:1_000].strip(),
        "filters": {"user_id": "ada"},
        "top_k": 3,
    }


async def test_nothing_is_asked_for_a_blank_query(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    assert await memory.recall(ADA, " \n", 3) == []
    assert platform.requests == []


async def test_nothing_is_asked_for_a_cursor_that_no_page_gave(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    with pytest.raises(UnknownCursor):
        await memory.page(ADA, 50, "garbage")
    assert platform.requests == []


async def test_a_listing_is_read_to_its_end(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    for number in range(230):
        platform.keep("ada", f"fact number{number}")
    found = await facts(memory)

    assert [request.target for request in platform.requests] == [
        f"/v3/memories/?page={page}&page_size=100" for page in (1, 2, 3)
    ]
    assert found == [f"fact number{number}" for number in reversed(range(30, 230))]


async def test_memories_of_one_moment_are_each_on_one_page(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    for number in range(150):
        platform.keep("ada", f"fact {number}", {"created_at": "2026-01-01T00:00:00Z"})
    seen, cursor = [], None
    while True:
        page = await memory.page(ADA, 40, cursor)
        seen += [one.fact for one in page.items]
        if (cursor := page.next_cursor) is None:
            break
        assert cursor.isdigit()
        assert len(cursor) <= 18

    assert sorted(seen) == sorted(f"fact {number}" for number in range(150))


async def test_what_is_added_between_pages_shifts_nothing(memory: MemoryMem0Platform) -> None:
    for number in range(6):
        await memory.store(ADA, f"fact {number}", 0.5)
    first = await memory.page(ADA, 3, None)
    await memory.store(ADA, "in between", 0.5)
    second = await memory.page(ADA, 3, first.next_cursor)

    assert [one.fact for one in [*first.items, *second.items]] == [f"fact {number}" for number in reversed(range(6))]


async def test_a_listing_without_an_end_is_given_up(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.faults["list"] = saying({"count": 1, "next": "http://127.0.0.1/", "results": []})
    with pytest.raises(MemoryUnavailable):
        await memory.page(ADA, 50, None)
    assert len(platform.requests) == 200


async def test_a_correction_sends_all_of_the_metadata(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    kept = platform.keep("ada", "likes tea", {"importance": 0.4, "source": "elsewhere"})
    corrected = await memory.correct(ADA, MemoryId(kept.id), "likes coffee", None)
    update = platform.sent("update")[0]

    assert (update.method, update.target) == ("PUT", f"/v1/memories/{kept.id}/")
    assert update.body == {"text": "likes coffee", "metadata": {"importance": 0.4, "source": "elsewhere"}}
    assert (corrected.fact, corrected.importance) == ("likes coffee", 0.4)


async def test_a_memory_is_deleted_by_its_id(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    kept = platform.keep("ada", "likes tea")
    await memory.forget(ADA, MemoryId(kept.id))

    assert [(request.method, request.target) for request in platform.requests[:2]] == [
        ("GET", f"/v1/memories/{kept.id}/"),
        ("DELETE", f"/v1/memories/{kept.id}/"),
    ]


@pytest.mark.parametrize("body", [b"", b"Deleted.", b'{"message": "Deleted."}'])
async def test_what_the_platform_says_of_a_deletion_does_not_matter(
    body: bytes, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    kept = platform.keep("ada", "likes tea")
    platform.keep("ada", "likes coffee")
    platform.plans = {"delete": [unheard(saying(body))], "delete_all": [unheard(saying(body))]}
    await memory.forget(ADA, MemoryId(kept.id))
    await forgotten(memory, ADA)

    assert await facts(memory) == []


@pytest.mark.parametrize("odd", ["../entities", "a/../../b", "%2e", "x?user_id=bob"])
async def test_an_odd_id_stays_one_part_of_the_path(
    odd: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, MemoryId(odd))
    target = platform.requests[0].target

    assert target.startswith("/v1/memories/")
    assert (target.count("/"), "?" in target) == (4, False)


async def test_an_odd_event_stays_one_part_of_the_path(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans["add"] = [unheard(saying({"event_id": "../ping/?x#y"}))]
    await memory.store(ADA, "likes tea", 0.5)

    assert platform.requests[1].target == "/v1/event/..%2Fping%2F%3Fx%23y/"


@pytest.mark.parametrize("user_id", ["a+b", "a=b", "ada@example.com", "auth0|1", "a~b:c"])
async def test_an_odd_user_is_forgotten_by_the_whole_id(
    user_id: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    await memory.forget_all(UserId(user_id))

    assert platform.sent("delete_all")[0].query == {"user_id": user_id}


# Faults

CALLS: dict[str, Call] = {
    "ping": lambda memory: memory.check(),
    "add": lambda memory: memory.store(ADA, CANARY, 0.5),
    "search": lambda memory: memory.recall(ADA, CANARY, 5),
    "list": lambda memory: memory.page(ADA, 50, None),
    "get": lambda memory: memory.correct(ADA, MemoryId(str(uuid4())), CANARY, None),
    "delete_all": lambda memory: memory.forget_all(ADA),
}
"""By operation, the call that fails with it."""

UNAVAILABLE: dict[str, Fault] = {
    "hang": hang,
    "reset": reset,
    "garbage": garbage,
    "drip": drip,
    "flood": flood,
    "500": status(500),
    "503": status(503),
    "408": status(408),
    "redirect": status(307, location="/elsewhere/"),
}


@pytest.mark.parametrize("fault", UNAVAILABLE)
@pytest.mark.parametrize("operation", CALLS)
async def test_what_may_pass_is_unavailable(
    operation: str, fault: str, memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(request_timeout=0.15)
    platform.plans[operation] = [UNAVAILABLE[fault]]
    platform.plans.setdefault("list", [garbage])  # where the first answer's text does not matter
    with pytest.raises(MemoryUnavailable) as raised:
        await CALLS[operation](memory)
    assert type(raised.value) is MemoryUnavailable


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("number", [401, 402, 403, 409, 413, 422])
async def test_what_would_fare_no_better_is_refused(
    number: int, operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [status(number)]
    with pytest.raises(MemoryRefused):
        await CALLS[operation](memory)


@pytest.mark.parametrize("operation", CALLS)
async def test_a_rate_limit_says_when_to_come_back(
    operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [status(429, retry_after="7")]
    with pytest.raises(MemoryUnavailable) as raised:
        await CALLS[operation](memory)
    assert raised.value.retry_after == 7


@pytest.mark.parametrize("operation", ["add", "search", "list"])
@pytest.mark.parametrize("body", [None, [], "x", {}, {"results": None}, {"results": [None]}, {"results": [{"id": 1}]}])
async def test_an_answer_of_another_shape_is_unavailable(
    body: object, operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [saying(body)]
    with pytest.raises(MemoryUnavailable):
        await CALLS[operation](memory)


async def test_an_answer_is_read_up_to_a_limit(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(request_timeout=30)
    platform.plans["list"] = [saying(b'{"results": []}'.rjust(LIMIT))]

    assert await facts(memory) == []


@pytest.mark.parametrize("beyond", [1, 1_000_000])
async def test_a_longer_answer_is_unavailable(beyond: int, memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(request_timeout=30)
    platform.plans["list"] = [saying(b'{"results": []}'.rjust(LIMIT + beyond))]
    with pytest.raises(MemoryUnavailable):
        await memory.page(ADA, 50, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "no-uuid"},
        {"memory": None},
        {"metadata": [1]},
        {"created_at": "yesterday"},
        {"created_at": None},
    ],
)
async def test_a_memory_of_another_shape_is_unavailable(
    wrong: dict[str, object], memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    whole = {"id": str(uuid4()), "memory": "likes tea", "user_id": "ada", "created_at": "2026-01-01T00:00:00Z"}
    platform.plans["list"] = [saying({"results": [whole]}), saying({"results": [whole | wrong]})]
    assert await facts(memory) == ["likes tea"]
    with pytest.raises(MemoryUnavailable):
        await memory.page(ADA, 50, None)


@pytest.mark.parametrize("importance", [None, "high", True, float("nan"), {}])
async def test_an_importance_that_is_no_number_was_not_said(
    importance: object, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.keep("ada", "likes tea", {"importance": importance})
    page = await memory.page(ADA, 50, None)

    assert [one.importance for one in page.items] == [0.5]


async def test_scores_lie_between_0_and_1_and_come_best_first(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    one = {"memory": "m", "user_id": "ada", "created_at": "2026-01-01T00:00:00Z"}
    results = [{**one, "id": str(uuid4()), "score": score} for score in (0.5, 7, -1, None)]
    platform.plans["search"] = [saying({"results": results})]

    assert [recalled.score for recalled in await memory.recall(ADA, "tea", 10)] == [1, 0.5, 0, 0]


@pytest.mark.parametrize("number", [400, 404, 410])
async def test_a_memory_that_the_platform_does_not_know_is_not_there(
    number: int, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.faults["get"] = status(number)
    with pytest.raises(MemoryNotFound):
        await memory.correct(ADA, MemoryId(str(uuid4())), "x", None)
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, MemoryId(str(uuid4())))


@pytest.mark.parametrize("operation", ["update", "delete"])
async def test_a_memory_may_vanish_between_two_requests(
    operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    kept = MemoryId(platform.keep("ada", "likes tea").id)
    platform.plans[operation] = [status(404)]
    with pytest.raises(MemoryNotFound):
        await (memory.correct(ADA, kept, "x", None) if operation == "update" else memory.forget(ADA, kept))


async def test_a_correction_that_is_refused_is_no_missing_memory(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    kept = platform.keep("ada", "likes tea")
    platform.plans["update"] = [status(400)]
    with pytest.raises(MemoryRefused):
        await memory.correct(ADA, MemoryId(kept.id), "x", None)


async def test_a_mistake_of_ours_is_not_taken_for_the_platforms(memory: MemoryMem0Platform) -> None:
    with pytest.raises(AttributeError):
        await memory._client.exchange(lambda mem0: mem0.no_such_method())


# Lag


async def test_trouble_while_waiting_is_outlived(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans = {
        "event": [status(500), reset, garbage, status(429, retry_after="0.01")],
        "list": [reset, status(503)],
        "search": [garbage],
    }
    stored = await memory.store(ADA, "likes tea", 0.5)

    assert len(platform.sent("add")) == 1
    assert await facts(memory) == [stored.fact]


async def test_who_waits_comes_back_when_the_platform_says(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.3)
    platform.plans["event"] = [status(429, retry_after="60")]
    with pytest.raises(MemoryUnavailable):
        await memory.store(ADA, "likes tea", 0.5)
    assert len(platform.sent("event")) == 1


async def test_a_refusal_while_waiting_is_not_waited_out(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans["event"] = [status(401)]
    with pytest.raises(MemoryRefused):
        await memory.store(ADA, "likes tea", 0.5)


@pytest.mark.parametrize("lag", [Lag(add=60), Lag(index=60), Lag(search=60)], ids=["add", "index", "search"])
async def test_what_is_not_there_in_time_was_not_stored_for_certain(
    lag: Lag, memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(settle_timeout=0.2)
    platform.lag = lag
    with pytest.raises(MemoryUnavailable):
        await memory.store(ADA, "likes tea", 0.5)


async def test_a_turn_is_remembered_once_all_that_came_of_it_is_listed(
    memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(settle_timeout=0.3)
    platform.distil = lambda said: said.split(", ")
    platform.lag = Lag(index=60)
    turn = completed("I like tea, I like cake")
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    for kept in platform.memories.values():
        kept.age(60)
    await memory.remember(turn)

    assert sorted(await facts(memory)) == ["I like cake", "I like tea"]
    assert len(platform.sent("add")) == 1


@pytest.mark.parametrize("lag", [Lag(index=60), Lag(search=60)], ids=["listing", "search"])
async def test_a_correction_is_waited_for(lag: Lag, memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.2)
    kept = platform.keep("ada", "likes tea")
    kept.age(60)
    platform.lag = lag
    with pytest.raises(MemoryUnavailable):
        await memory.correct(ADA, MemoryId(kept.id), "likes coffee", None)


@pytest.mark.parametrize("lag", [Lag(delete=60), Lag(search=60)], ids=["listing", "search"])
async def test_a_deletion_is_waited_for(lag: Lag, memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.2)
    kept = platform.keep("ada", "likes tea")
    kept.age(60)
    platform.keep("ada", "likes coffee")
    platform.lag = lag
    with pytest.raises(MemoryUnavailable):
        await memory.forget(ADA, MemoryId(kept.id))
    platform.lag = NO_LAG

    assert await facts(memory) == ["likes coffee"]


async def test_an_add_that_failed_was_not_stored(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.failing_adds = 1
    with pytest.raises(MemoryUnavailable):
        await memory.store(ADA, "likes tea", 0.5)
    assert await facts(memory) == []


async def test_a_turn_whose_add_failed_is_remembered_when_asked_again(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    turn = completed()
    platform.failing_adds = 1
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    await memory.remember(turn)

    assert await facts(memory) == ["My dog is called Bello"]


async def test_a_turn_that_is_still_being_added_is_not_added_again(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.5)
    platform.lag = Lag(add=60)
    turn = completed()
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    platform.finish_adds(0.05)
    await memory.remember(turn)

    assert len(platform.sent("add")) == 1
    assert await facts(memory) == ["My dog is called Bello"]


async def test_an_add_whose_answer_got_lost_is_found_again(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    turn = completed()
    platform.plans["add"] = [unheard(reset)]
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    await memory.remember(turn)

    assert len(platform.sent("add")) == 1
    assert await facts(memory) == ["My dog is called Bello"]


async def test_a_turn_of_which_nothing_is_worth_keeping_is_done_with(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.distil = lambda said: []
    await memory.remember(completed())

    assert await facts(memory) == []


async def test_an_event_that_added_nothing_is_not_waited_for(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.distil = lambda said: []
    platform.plans["event"] = [saying({"status": "SUCCEEDED", "results": [{"id": str(uuid4()), "event": "NOOP"}]})]
    await memory.remember(completed())

    assert await facts(memory) == []


async def test_an_event_that_the_platform_has_forgotten_is_over(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans["event"] = [status(404)]
    await memory.store(ADA, "likes tea", 0.5)

    assert await facts(memory) == ["likes tea"]


# Forgetting a user


async def test_a_user_is_forgotten_after_two_looks_an_interval_apart(
    memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(forget_interval=1)
    platform.keep("ada", "likes tea")
    first = await memory.forget_all(ADA)
    second = await memory.forget_all(ADA)
    await asyncio.sleep(1)

    assert (first, second, await memory.forget_all(ADA)) == (False, False, True)
    assert len(platform.sent("delete_all")) == 1


async def test_a_look_at_a_user_does_not_overlook_what_has_expired(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    await memory.forget_all(ADA)
    listing, search = platform.sent("list")[0], platform.sent("search")[0]

    assert listing.body == {"filters": {"user_id": "ada"}, "show_expired": True}
    assert (search.body["filters"], search.body["show_expired"]) == ({"user_id": "ada"}, True)


async def test_a_listing_that_lags_behind_is_waited_for(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.keep("ada", "likes tea")
    platform.keep("bob", "likes tea")
    platform.lag = Lag(delete=60)
    for _ in range(3):
        assert not await memory.forget_all(ADA)
        await asyncio.sleep(0.06)
    platform.lag = NO_LAG
    await forgotten(memory, ADA)

    assert await facts(memory) == []
    assert await facts(memory, BOB) == ["likes tea"]


async def test_a_search_that_lags_behind_is_waited_for(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    kept = platform.keep("ada", "likes tea")
    platform.lag = Lag(search=60)
    kept.age(60)
    for _ in range(3):
        assert not await memory.forget_all(ADA)
        await asyncio.sleep(0.06)
    platform.lag = NO_LAG
    await forgotten(memory, ADA)

    assert await memory.recall(ADA, "tea", 10) == []


async def test_what_comes_back_is_deleted_again(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.forget_all(ADA)
    await asyncio.sleep(0.06)
    platform.keep("ada", "late")
    assert not await memory.forget_all(ADA)

    assert len(platform.sent("delete_all")) == 2
    assert await facts(memory) == []
    assert not await memory.forget_all(ADA)
    await forgotten(memory, ADA)


async def test_nobody_is_forgotten_while_something_may_still_arrive(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.1)
    platform.lag = Lag(add=60)
    with pytest.raises(MemoryUnavailable):
        await memory.remember(completed())
    for _ in range(3):
        assert not await memory.forget_all(ADA)
        await asyncio.sleep(0.06)
    platform.finish_adds()
    await forgotten(memory, ADA)

    assert await facts(memory) == []


async def test_what_is_stored_meanwhile_starts_the_looks_anew(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    await memory.forget_all(ADA)
    await memory.store(ADA, "likes tea", 0.5)
    await asyncio.sleep(0.06)

    assert not await memory.forget_all(ADA)
    assert len(platform.sent("delete_all")) == 2


@pytest.mark.parametrize("looked", ["before", "meanwhile"])
async def test_a_look_before_or_while_something_is_added_counts_for_nothing(
    looked: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    released = asyncio.Event()
    platform.plans["add"] = [after(released)]
    if looked == "before":
        await memory.forget_all(ADA)
    storing = asyncio.create_task(memory.store(ADA, "likes tea", 0.5))
    while not platform.sent("add"):
        await asyncio.sleep(0.01)
    if looked == "meanwhile":
        await memory.forget_all(ADA)
        platform.lag = Lag(index=60)
        released.set()
        while not platform.sent("event"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.06)

    assert not await memory.forget_all(ADA)
    storing.cancel()


# Others' memories


def foreign() -> dict[str, object]:
    return {
        "id": str(uuid4()),
        "memory": "Bob's secret",
        "user_id": "bob",
        "metadata": {},
        "score": 0.9,
        "created_at": "2026-01-01T00:00:00Z",
    }


async def test_whose_a_memory_is_is_told_as_the_platform_says_it(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans = {"list": [leaking(foreign())], "search": [leaking(foreign())]}
    nobodys = {name: value for name, value in foreign().items() if name != "user_id"}

    assert [one.owner for one in (await memory.page(ADA, 50, None)).items] == ["bob"]
    assert [one.memory.owner for one in await memory.recall(ADA, "secret", 10)] == ["bob"]
    platform.plans["list"] = [leaking(nobodys)]
    assert [one.owner for one in (await memory.page(ADA, 50, None)).items] == [""]


async def test_anothers_memory_is_neither_changed_nor_deleted(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    kept = MemoryId(platform.keep("ADA", "likes tea").id)
    with pytest.raises(MemoryNotFound):
        await memory.correct(ADA, kept, "x", None)
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, kept)

    assert operations(platform) == ["get", "get"]


async def test_an_answer_about_another_memory_is_not_used(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans["get"] = [saying({**foreign(), "user_id": "ada"})]
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, MemoryId(str(uuid4())))
    assert platform.sent("delete") == []


@pytest.mark.parametrize(
    "call",
    [
        lambda memory: memory.store(ADA, "likes tea", 0.5),
        lambda memory: memory.remember(completed()),
        lambda memory: memory.forget_all(ADA),
    ],
    ids=["store", "remember", "forget_all"],
)
async def test_nothing_is_done_after_a_leak(call: Call, memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.faults["list"] = leaking(foreign())
    with pytest.raises(MemoryLeaked):
        await call(memory)
    assert platform.sent("delete") == []


@pytest.mark.parametrize("operation", ["list", "search"])
async def test_a_leak_is_told_apart_from_waiting(
    operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    kept = MemoryId(platform.keep("ada", "likes tea").id)
    platform.faults[operation] = leaking(foreign())
    with pytest.raises(MemoryLeaked):
        await memory.correct(ADA, kept, "likes coffee", None)
    with pytest.raises(MemoryLeaked):
        await memory.forget(ADA, kept)


async def test_a_filter_that_the_platform_does_not_apply_is_applied_here(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.faults["list"] = leaking({**foreign(), "user_id": "ada", "memory": "of another turn"})
    turn = completed()
    await memory.remember(turn)
    await memory.remember(turn)

    assert len(platform.sent("add")) == 1


# Starts, ends, and connections


async def test_the_constructor_does_nothing(platform: Mem0Platform, tmp_path: Path) -> None:
    MemoryMem0Platform(api_key=KEY, host=platform.host, data_dir=tmp_path / "nowhere")

    assert platform.requests == []
    assert not (tmp_path / "nowhere").exists()


async def test_opening_asks_once_and_not_by_the_clients_own_ping(
    platform: Mem0Platform, data_dir: Path, memories: Memories
) -> None:
    memory = MemoryMem0Platform(api_key=KEY, host=platform.host, data_dir=data_dir)
    await memory.open()
    await memory.close()

    assert operations(platform) == ["ping"]
    assert platform.requests[0].headers["user-agent"].startswith("python-httpx/")


async def test_a_slow_ping_holds_nobody_up(memories: Memories, platform: Mem0Platform) -> None:
    released = asyncio.Event()
    platform.faults["ping"] = after(released)
    memory = await memories(connect_timeout=0.5, request_timeout=1_000)
    assert await memory.recall(ADA, "tea", 3) == []
    released.set()
    await memory.check()


@pytest.mark.parametrize("fault", [hang, reset, garbage, status(500), status(401)])
async def test_a_platform_that_is_unwell_does_not_prevent_a_start(
    fault: Fault, memories: Memories, platform: Mem0Platform
) -> None:
    platform.plans["ping"] = [fault]
    with capture_logs() as lines:
        memory = await memories(connect_timeout=0.5, request_timeout=30)
    await memory.check()

    assert ["memory_platform_not_ready"] == [line["event"] for line in lines]


async def test_a_platform_that_is_down_at_the_start_is_used_once_it_is_up(data_dir: Path) -> None:
    platform = Mem0Platform()
    async with platform:
        pass
    memory = MemoryMem0Platform(api_key=KEY, host=platform.host, data_dir=data_dir)
    await memory.open()
    with pytest.raises(MemoryUnavailable):
        await memory.recall(ADA, "tea", 3)
    async with platform:
        await memory.store(ADA, "likes tea", 0.5)
        assert await facts(memory) == ["likes tea"]
        await memory.close()


async def test_a_key_that_is_refused_does_not_prevent_a_start(memories: Memories) -> None:
    memory = await memories(api_key="another")
    with pytest.raises(MemoryRefused):
        await memory.recall(ADA, "tea", 3)


async def test_connections_are_taken_for_lost_after_three_calls_without_one(
    memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(max_connections=2, pool_timeout=0.05, request_timeout=30)
    platform.faults["search"] = hang
    stuck = [asyncio.create_task(memory.recall(ADA, "tea", 3)) for _ in range(2)]
    while len(platform.sent("search")) < 2:
        await asyncio.sleep(0.01)
    for _ in range(3):
        with pytest.raises(MemoryUnavailable):
            await memory.check()
    await memory.check()

    assert not any(task.done() for task in stuck)
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_calls_without_a_connection_count_in_a_row_only(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(max_connections=1, pool_timeout=0.05, request_timeout=30)
    client = memory._client._client
    for _ in range(2):
        released = asyncio.Event()
        platform.plans["search"] = [after(released)]
        asked = asyncio.create_task(memory.recall(ADA, "tea", 3))
        while not platform.sent("search"):
            await asyncio.sleep(0.01)
        platform.requests.clear()
        for _ in range(2):
            with pytest.raises(MemoryUnavailable):
                await memory.check()
        released.set()
        await asked

    assert memory._client._client is client


async def test_calls_that_are_cancelled_leave_no_connection_taken(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(max_connections=3, pool_timeout=0.05, request_timeout=30)
    chance = random.Random(1)
    platform.faults["search"] = slow(0.01)
    for _ in range(40):
        calls = [asyncio.create_task(memory.recall(ADA, "tea", 3)) for _ in range(10)]
        for call in chance.sample(calls, 8):
            await asyncio.sleep(chance.random() * 0.005)
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    platform.faults.clear()
    outcomes = await asyncio.gather(*(memory.check() for _ in range(3)), return_exceptions=True)
    await memory.check()

    assert [outcome for outcome in outcomes if outcome and not isinstance(outcome, MemoryUnavailable)] == []


async def test_a_client_that_was_replaced_is_closed(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(max_connections=1, pool_timeout=0.02, request_timeout=0.4)
    old = memory._client._client.async_client
    platform.faults["search"] = hang
    stuck = asyncio.create_task(memory.recall(ADA, "tea", 3))
    while not platform.sent("search"):
        await asyncio.sleep(0.01)
    for _ in range(3):
        with pytest.raises(MemoryUnavailable):
            await memory.check()
    with pytest.raises(MemoryUnavailable):
        await stuck
    while memory._client._retiring:
        await asyncio.sleep(0.01)

    assert old.is_closed


# Secrets


def linked(error: BaseException | None) -> list[BaseException]:
    """An error and all that hangs on it, shown in a traceback or not."""
    return [error, *linked(error.__cause__), *linked(error.__context__)] if error else []


@pytest.mark.parametrize("fault", [status(400), status(401), status(429), status(500), garbage, reset, hang])
async def test_neither_the_key_nor_what_users_say_gets_into_logs_or_errors(
    fault: Fault,
    memories: Memories,
    platform: Mem0Platform,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    memory = await memories(request_timeout=0.1, settle_timeout=0.2)
    kept = MemoryId(platform.keep("ada", CANARY).id)
    turn = completed(CANARY, CANARY)
    calls: dict[str, Call] = {
        **CALLS,
        "update": lambda memory: memory.correct(ADA, kept, f"{CANARY} anew", None),
        "delete": lambda memory: memory.forget(ADA, kept),
        "event": lambda memory: memory.remember(turn),
    }
    raised: list[str] = []
    behind: list[str] = []
    for operation, call in calls.items():
        platform.faults = {operation: fault}
        try:
            await call(memory)
        except ChatError as error:
            raised.append("".join(traceback.format_exception(error)))
            behind += [repr(link) for link in linked(error)]
    platform.faults = {"ping": fault}
    await memory.open()
    said = "\n".join([caplog.text, *capfd.readouterr(), *raised, *behind])

    assert len(raised) >= len(calls) - 1  # a deletion's answer may be garbage
    assert (CANARY in said, KEY in said) == (False, False)
    assert [record for record in caplog.records if record.name.startswith("mem0")] == []


# Processes


async def started(platform: Mem0Platform, what: str, folder: Path, home: Path) -> asyncio.subprocess.Process:
    """A process that has sent its first ping."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.harness.apps.hosted_memory", what, platform.host, str(folder)),
        env=clean_environment(HOME=str(home)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    while not platform.sent("ping"):
        await asyncio.sleep(0.01)
    return process


@pytest.mark.parametrize("what", ["open", "build"])
async def test_a_process_ends_while_a_ping_hangs(what: str, platform: Mem0Platform, tmp_path: Path) -> None:
    platform.faults["ping"] = hang
    process = await started(platform, what, tmp_path / "data", tmp_path)
    output, _ = await asyncio.wait_for(process.communicate(b"end\n"), 30)

    assert (process.returncode, output.split()[-1]) == (0, b"waited")


async def test_mem0_writes_into_our_folder_only_and_tells_nobody(platform: Mem0Platform, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = await started(platform, "open", tmp_path / "data", home)
    output, _ = await asyncio.wait_for(process.communicate(b"end\n"), 30)

    assert {line for line in output.decode().splitlines() if line.startswith("host")} == {"host 127.0.0.1"}
    assert list(home.iterdir()) == []
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["mem0", "config.json"]


def test_telemetry_is_off(tmp_path: Path) -> None:
    mem0 = import_mem0(tmp_path)

    assert mem0.memory.telemetry.client_telemetry.posthog is None
