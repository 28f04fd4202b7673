"""Mem0's hosted platform over real sockets: the requests that are sent, faults, lag, and leaks.

The fake platform runs on the test's own event loop, so an adapter that blocked the loop would deadlock.
"""

import asyncio
import hashlib
import logging
import random
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from adapters.mem0_import import import_mem0
from adapters.memory_mem0_platform import MemoryMem0Platform
from application.ports.memory import MemoryLeaked, MemoryNotReady, MemoryRefused, MemoryUnavailable
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import ChatError, MemoryNotFound, UnknownCursor
from domain.memory import MAX_FACT_CHARS, MemoryId
from tests.harness.exchange import TIMEOUT
from tests.harness.mem0_platform import KEY, NO_LAG, Fault, Lag, Mem0Platform
from tests.harness.mem0_platform_faults import (
    after,
    drip,
    executed_but,
    flood,
    garbage,
    hang,
    leaking,
    reset,
    responding,
    slow,
    status,
)
from tests.harness.servers import clean_environment

pytestmark = pytest.mark.server

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


def new_memory(platform: Mem0Platform, data_dir: Path, **options: Any) -> MemoryMem0Platform:
    required = {"api_key": KEY, "host": platform.host, "data_dir": data_dir, "now": lambda: datetime.now(UTC)}
    return MemoryMem0Platform(**{**required, **options})


class Memories:
    """Opens adapters with short timeouts, and closes them after the test."""

    def __init__(self, platform: Mem0Platform, data_dir: Path, stack: AsyncExitStack) -> None:
        self._platform = platform
        self._data_dir = data_dir
        self._stack = stack

    async def __call__(self, **options: Any) -> MemoryMem0Platform:
        limits = {"request_timeout": 5, "settle_timeout": 10, "forget_interval": 0.05}
        memory = new_memory(self._platform, self._data_dir, **{**limits, **options})
        await self._stack.enter_async_context(memory)
        self._platform.requests.clear()
        return memory


@pytest.fixture
async def memories(platform: Mem0Platform, data_dir: Path) -> AsyncIterator[Memories]:
    async with AsyncExitStack() as stack:
        yield Memories(platform, data_dir, stack)


@pytest.fixture
async def memory(memories: Memories) -> MemoryMem0Platform:
    return await memories()


def completed(message: str = "My dog is called Bello", reply: str = "What a name.", user_id: UserId = ADA) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message)
    return turn.completed(reply, "stop")


async def facts(memory: MemoryMem0Platform, user_id: UserId = ADA) -> list[str]:
    page = await memory.page(user_id, 200, None)
    return [item.fact for item in page.items]


async def remembered(memory: MemoryMem0Platform, turn: Turn) -> None:
    """Repeat it until it succeeds, as the outbox does."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            with suppress(MemoryUnavailable):
                return await memory.remember(turn)


async def forgotten(memory: MemoryMem0Platform, user_id: UserId) -> None:
    while not await memory.forget_all(user_id):
        await asyncio.sleep(0.02)


def operations(platform: Mem0Platform) -> list[str]:
    return [request.operation for request in platform.requests]


# Requests


async def test_every_request_carries_the_key(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.recall(ADA, "tea", 3)
    headers = platform.requests[0].headers

    assert headers["authorization"] == f"Token {KEY}"
    assert headers["mem0-user-id"] == hashlib.md5(KEY.encode()).hexdigest()
    assert headers["x-mem0-client"].startswith("mem0-python/")
    assert headers["accept-encoding"] == "identity"


async def test_store_adds_a_fact_verbatim_and_polls_for_it(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
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


async def test_store_searches_for_the_beginning_of_a_long_fact(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    await memory.store(ADA, "x" * MAX_FACT_CHARS, 0.5)

    assert platform.sent("search")[0].body["query"] == "x" * 1_000


async def test_both_messages_of_a_turn_are_sent_for_inference(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
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


async def test_without_inference_only_the_users_message_is_kept(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(infer=False)
    await memory.remember(completed("My dog is called Bello", "What a name."))
    await memory.remember(completed("x" * (MAX_FACT_CHARS + 1)))
    await memory.remember(completed("What is my dog called?"))

    assert platform.sent("add")[0].body["messages"] == [{"role": "user", "content": "My dog is called Bello"}]
    assert platform.sent("add")[0].body["infer"] is False
    assert sorted(await facts(memory)) == ["My dog is called Bello", "x" * MAX_FACT_CHARS]


async def test_recall_sends_filters_and_a_limit(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.recall(ADA, "  which tea?" + "x" * 2_000, 3)

    assert platform.requests[0].body == {
        "query": ("  which tea?" + "x" * 2_000)[:1_000].strip(),
        "filters": {"user_id": "ada"},
        "top_k": 3,
    }


async def test_a_blank_query_sends_no_request(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    assert await memory.recall(ADA, " \n", 3) == []
    assert platform.requests == []


async def test_an_unknown_cursor_sends_no_request(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    with pytest.raises(UnknownCursor):
        await memory.page(ADA, 50, "garbage")
    assert platform.requests == []


async def test_all_pages_of_a_listing_are_read(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    for number in range(230):
        platform.keep("ada", f"fact number{number}")
    found = await facts(memory)

    assert [request.target for request in platform.requests] == [
        f"/v3/memories/?page={page}&page_size=100" for page in (1, 2, 3)
    ]
    assert found == [f"fact number{number}" for number in reversed(range(30, 230))]


async def test_memories_of_the_same_microsecond_occur_once_over_all_pages(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    for number in range(150):
        platform.keep("ada", f"fact {number}", {"created_at": "2026-01-01T00:00:00Z"})
    seen, cursor = [], None
    while True:
        page = await memory.page(ADA, 40, cursor)
        seen += [item.fact for item in page.items]
        if (cursor := page.next_cursor) is None:
            break
        assert cursor.isdigit()
        assert len(cursor) <= 18

    assert sorted(seen) == sorted(f"fact {number}" for number in range(150))


async def test_a_memory_added_between_two_pages_shifts_nothing(memory: MemoryMem0Platform) -> None:
    for number in range(6):
        await memory.store(ADA, f"fact {number}", 0.5)
    first = await memory.page(ADA, 3, None)
    await memory.store(ADA, "in between", 0.5)
    second = await memory.page(ADA, 3, first.next_cursor)

    assert [item.fact for item in [*first.items, *second.items]] == [f"fact {number}" for number in reversed(range(6))]


async def test_an_endless_listing_is_given_up(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.faults["list"] = responding({"count": 1, "next": "http://127.0.0.1/", "results": []})
    with pytest.raises(MemoryUnavailable):
        await memory.page(ADA, 50, None)
    assert len(platform.requests) == 200


async def test_a_correction_sends_the_complete_metadata(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    stored = platform.keep("ada", "likes tea", {"importance": 0.4, "source": "elsewhere"})
    corrected = await memory.correct(ADA, MemoryId(stored.id), "likes coffee", None)
    update = platform.sent("update")[0]

    assert (update.method, update.target) == ("PUT", f"/v1/memories/{stored.id}/")
    assert update.body == {"text": "likes coffee", "metadata": {"importance": 0.4, "source": "elsewhere"}}
    assert (corrected.fact, corrected.importance) == ("likes coffee", 0.4)


async def test_a_memory_is_deleted_by_its_id(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    stored = platform.keep("ada", "likes tea")
    await memory.forget(ADA, MemoryId(stored.id))

    assert [(request.method, request.target) for request in platform.requests[:2]] == [
        ("GET", f"/v1/memories/{stored.id}/"),
        ("DELETE", f"/v1/memories/{stored.id}/"),
    ]


@pytest.mark.parametrize("body", [b"", b"Deleted.", b'{"message": "Deleted."}'])
async def test_the_body_of_a_successful_deletion_is_ignored(
    body: bytes, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    stored = platform.keep("ada", "likes tea")
    platform.keep("ada", "likes coffee")
    platform.plans = {"delete": [executed_but(responding(body))], "delete_all": [executed_but(responding(body))]}
    await memory.forget(ADA, MemoryId(stored.id))
    await forgotten(memory, ADA)

    assert await facts(memory) == []


@pytest.mark.parametrize("odd", ["../entities", "a/../../b", "%2e", "x?user_id=bob"])
async def test_a_memory_id_is_quoted_in_the_path(odd: str, memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, MemoryId(odd))
    target = platform.requests[0].target

    assert target.startswith("/v1/memories/")
    assert (target.count("/"), "?" in target) == (4, False)


async def test_an_event_id_is_quoted_in_the_path(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans["add"] = [executed_but(responding({"event_id": "../ping/?x#y"}))]
    await memory.store(ADA, "likes tea", 0.5)

    assert platform.requests[1].target == "/v1/event/..%2Fping%2F%3Fx%23y/"


@pytest.mark.parametrize("user_id", ["a+b", "a=b", "ada@example.com", "auth0|1", "a~b:c"])
async def test_a_user_id_with_special_characters_is_sent_whole(
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
"""By operation of the platform, a call that needs it."""

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
async def test_temporary_faults_make_memory_unavailable(
    operation: str, fault: str, memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(request_timeout=0.15)
    platform.plans[operation] = [UNAVAILABLE[fault]]
    platform.plans.setdefault("list", [garbage])  # for deletions, whose own body is ignored
    with pytest.raises(MemoryUnavailable) as raised:
        await CALLS[operation](memory)
    assert type(raised.value) is MemoryUnavailable


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("number", [401, 403])
async def test_a_rejected_key_makes_the_memory_not_ready(
    number: int, operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [status(number)]
    with pytest.raises(MemoryNotReady, match="check MEM0_API_KEY"):
        await CALLS[operation](memory)


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("number", [402, 409, 413, 422])
async def test_permanent_faults_refuse_the_request(
    number: int, operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [status(number)]
    with pytest.raises(MemoryRefused):
        await CALLS[operation](memory)


@pytest.mark.parametrize("operation", CALLS)
async def test_a_rate_limit_passes_on_retry_after(
    operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [status(429, retry_after="7")]
    with pytest.raises(MemoryUnavailable) as raised:
        await CALLS[operation](memory)
    assert raised.value.retry_after == 7


@pytest.mark.parametrize("operation", ["add", "search", "list"])
@pytest.mark.parametrize("body", [None, [], "x", {}, {"results": None}, {"results": [None]}, {"results": [{"id": 1}]}])
async def test_a_malformed_response_makes_memory_unavailable(
    body: object, operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans[operation] = [responding(body)]
    with pytest.raises(MemoryUnavailable):
        await CALLS[operation](memory)


async def test_a_response_of_the_maximum_size_is_read(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(request_timeout=30, max_response_bytes=100_000)
    platform.plans["list"] = [responding(b'{"results": []}'.rjust(100_000))]

    assert await facts(memory) == []


@pytest.mark.parametrize("excess", [1, 1_000_000])
async def test_a_longer_response_makes_memory_unavailable(
    excess: int, memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(request_timeout=30, max_response_bytes=100_000)
    platform.plans["list"] = [responding(b'{"results": []}'.rjust(100_000 + excess))]
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
async def test_a_malformed_memory_makes_memory_unavailable(
    wrong: dict[str, object], memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    whole = {"id": str(uuid4()), "memory": "likes tea", "user_id": "ada", "created_at": "2026-01-01T00:00:00Z"}
    platform.plans["list"] = [responding({"results": [whole]}), responding({"results": [whole | wrong]})]
    assert await facts(memory) == ["likes tea"]
    with pytest.raises(MemoryUnavailable):
        await memory.page(ADA, 50, None)


@pytest.mark.parametrize("importance", [None, "high", True, float("nan"), {}])
async def test_an_importance_that_is_no_number_becomes_the_default(
    importance: object, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.keep("ada", "likes tea", {"importance": importance})
    page = await memory.page(ADA, 50, None)

    assert [item.importance for item in page.items] == [0.5]


async def test_scores_are_clamped_and_sorted(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    result = {"memory": "m", "user_id": "ada", "created_at": "2026-01-01T00:00:00Z"}
    results = [{**result, "id": str(uuid4()), "score": score} for score in (0.5, 7, -1, None)]
    platform.plans["search"] = [responding({"results": results})]

    assert [recalled.score for recalled in await memory.recall(ADA, "tea", 10)] == [1, 0.5, 0, 0]


@pytest.mark.parametrize("number", [400, 404, 410])
async def test_a_memory_unknown_to_the_platform_is_not_found(
    number: int, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.faults["get"] = status(number)
    with pytest.raises(MemoryNotFound):
        await memory.correct(ADA, MemoryId(str(uuid4())), "x", None)
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, MemoryId(str(uuid4())))


@pytest.mark.parametrize("operation", ["update", "delete"])
async def test_a_memory_deleted_between_two_requests_is_not_found(
    operation: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    stored = MemoryId(platform.keep("ada", "likes tea").id)
    platform.plans[operation] = [status(404)]
    with pytest.raises(MemoryNotFound):
        await (memory.correct(ADA, stored, "x", None) if operation == "update" else memory.forget(ADA, stored))


async def test_a_rejected_correction_is_refused_rather_than_not_found(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    stored = platform.keep("ada", "likes tea")
    platform.plans["update"] = [status(400)]
    with pytest.raises(MemoryRefused):
        await memory.correct(ADA, MemoryId(stored.id), "x", None)


async def test_programming_errors_are_not_translated(memory: MemoryMem0Platform) -> None:
    with pytest.raises(AttributeError):
        await memory._client.call(lambda mem0: mem0.no_such_method())


# Eventual consistency


async def test_polling_continues_through_temporary_faults(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans = {
        "event": [status(500), reset, garbage, status(429, retry_after="0.01")],
        "list": [reset, status(503)],
        "search": [garbage],
    }
    stored = await memory.store(ADA, "likes tea", 0.5)

    assert len(platform.sent("add")) == 1
    assert await facts(memory) == [stored.fact]


async def test_polling_honours_retry_after(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=2)
    platform.plans["event"] = [status(429, retry_after="60")]
    with pytest.raises(MemoryUnavailable):
        await memory.store(ADA, "likes tea", 0.5)
    assert len(platform.sent("event")) == 1


@pytest.mark.parametrize(("number", "error"), [(401, MemoryNotReady), (422, MemoryRefused)])
async def test_polling_ends_on_a_refusal(
    memory: MemoryMem0Platform, platform: Mem0Platform, number: int, error: type[Exception]
) -> None:
    platform.plans["event"] = [status(number)]
    with pytest.raises(error):
        await memory.store(ADA, "likes tea", 0.5)


@pytest.mark.parametrize("lag", [Lag(add=60), Lag(index=60), Lag(search=60)], ids=["add", "index", "search"])
async def test_a_fact_that_does_not_show_in_time_makes_memory_unavailable(
    lag: Lag, memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(settle_timeout=0.2)
    platform.lag = lag
    with pytest.raises(MemoryUnavailable):
        await memory.store(ADA, "likes tea", 0.5)


async def test_a_turn_counts_as_remembered_when_all_of_its_facts_are_listed(
    memories: Memories, platform: Mem0Platform
) -> None:
    memory = await memories(settle_timeout=0.3)
    platform.infer = lambda message: message.split(", ")
    platform.lag = Lag(index=60)
    turn = completed("I like tea, I like cake")
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    platform.lag = NO_LAG
    for stored in platform.memories.values():
        stored.age(60)
    await remembered(memory, turn)

    assert sorted(await facts(memory)) == ["I like cake", "I like tea"]
    assert len(platform.sent("add")) == 1


@pytest.mark.parametrize("lag", [Lag(index=60), Lag(search=60)], ids=["listing", "search"])
async def test_a_correction_waits_for_listing_and_search(lag: Lag, memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.2)
    stored = platform.keep("ada", "likes tea")
    stored.age(60)
    platform.lag = lag
    with pytest.raises(MemoryUnavailable):
        await memory.correct(ADA, MemoryId(stored.id), "likes coffee", None)


@pytest.mark.parametrize("lag", [Lag(delete=60), Lag(search=60)], ids=["listing", "search"])
async def test_a_deletion_waits_for_listing_and_search(lag: Lag, memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.2)
    stored = platform.keep("ada", "likes tea")
    stored.age(60)
    platform.keep("ada", "likes coffee")
    platform.lag = lag
    with pytest.raises(MemoryUnavailable):
        await memory.forget(ADA, MemoryId(stored.id))
    platform.lag = NO_LAG

    assert await facts(memory) == ["likes coffee"]


async def test_a_failed_add_makes_memory_unavailable(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.failing_adds = 1
    with pytest.raises(MemoryUnavailable):
        await memory.store(ADA, "likes tea", 0.5)
    assert await facts(memory) == []


async def test_a_turn_whose_add_failed_is_added_again_on_retry(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    turn = completed()
    platform.failing_adds = 1
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    await memory.remember(turn)

    assert await facts(memory) == ["My dog is called Bello"]


async def test_a_turn_whose_add_is_pending_is_not_added_again(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(settle_timeout=0.5)
    platform.lag = Lag(add=60)
    turn = completed()
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    platform.lag = NO_LAG
    platform.finish_adds(0.05)
    await remembered(memory, turn)

    assert len(platform.sent("add")) == 1
    assert await facts(memory) == ["My dog is called Bello"]


async def test_an_add_whose_response_was_lost_is_not_repeated(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    turn = completed()
    platform.plans["add"] = [executed_but(reset)]
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)
    await memory.remember(turn)

    assert len(platform.sent("add")) == 1
    assert await facts(memory) == ["My dog is called Bello"]


async def test_a_turn_without_facts_is_remembered_at_once(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.infer = lambda message: []
    await memory.remember(completed())

    assert await facts(memory) == []


async def test_an_event_that_added_nothing_needs_no_polling(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.infer = lambda message: []
    platform.plans["event"] = [responding({"status": "SUCCEEDED", "results": [{"id": str(uuid4()), "event": "NOOP"}]})]
    await memory.remember(completed())

    assert await facts(memory) == []


async def test_a_dropped_event_counts_as_finished(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans["event"] = [status(404)]
    await memory.store(ADA, "likes tea", 0.5)

    assert await facts(memory) == ["likes tea"]


# Forgetting a user


async def test_forgetting_a_user_takes_two_checks_an_interval_apart(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(forget_interval=1)
    platform.keep("ada", "likes tea")
    first = await memory.forget_all(ADA)
    second = await memory.forget_all(ADA)
    await asyncio.sleep(1)

    assert (first, second, await memory.forget_all(ADA)) == (False, False, True)
    assert len(platform.sent("delete_all")) == 1


async def test_forgetting_a_user_checks_expired_memories_too(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    await memory.forget_all(ADA)
    listing, search = platform.sent("list")[0], platform.sent("search")[0]

    assert listing.body == {"filters": {"user_id": "ada"}, "show_expired": True}
    assert (search.body["filters"], search.body["show_expired"]) == ({"user_id": "ada"}, True)


async def test_forgetting_a_user_waits_for_a_lagging_listing(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
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


async def test_forgetting_a_user_waits_for_a_lagging_search(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    stored = platform.keep("ada", "likes tea")
    platform.lag = Lag(search=60)
    stored.age(60)
    for _ in range(3):
        assert not await memory.forget_all(ADA)
        await asyncio.sleep(0.06)
    platform.lag = NO_LAG
    await forgotten(memory, ADA)

    assert await memory.recall(ADA, "tea", 10) == []


async def test_a_memory_that_appears_later_is_deleted_again(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.forget_all(ADA)
    await asyncio.sleep(0.06)
    platform.keep("ada", "late")
    assert not await memory.forget_all(ADA)

    assert len(platform.sent("delete_all")) == 2
    assert await facts(memory) == []
    assert not await memory.forget_all(ADA)
    await forgotten(memory, ADA)


async def test_forgetting_a_user_waits_for_pending_adds(memories: Memories, platform: Mem0Platform) -> None:
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


async def test_storing_a_fact_restarts_the_checks(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    await memory.forget_all(ADA)
    await memory.store(ADA, "likes tea", 0.5)
    await asyncio.sleep(0.06)

    assert not await memory.forget_all(ADA)
    assert len(platform.sent("delete_all")) == 2


@pytest.mark.parametrize("checked", ["before", "meanwhile"])
async def test_a_check_before_or_during_an_add_does_not_count(
    checked: str, memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    released = asyncio.Event()
    platform.plans["add"] = [after(released)]
    if checked == "before":
        await memory.forget_all(ADA)
    storing = asyncio.create_task(memory.store(ADA, "likes tea", 0.5))
    while not platform.sent("add"):
        await asyncio.sleep(0.01)
    if checked == "meanwhile":
        await memory.forget_all(ADA)
        platform.lag = Lag(index=60)
        released.set()
        while not platform.sent("event"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.06)

    assert not await memory.forget_all(ADA)
    storing.cancel()


# Tenant isolation


def foreign() -> dict[str, object]:
    return {
        "id": str(uuid4()),
        "memory": "Bob's secret",
        "user_id": "bob",
        "metadata": {},
        "score": 0.9,
        "created_at": "2026-01-01T00:00:00Z",
    }


async def test_the_owner_of_a_memory_is_the_one_that_the_platform_names(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    platform.plans = {"list": [leaking(foreign())], "search": [leaking(foreign())]}
    ownerless = {name: value for name, value in foreign().items() if name != "user_id"}

    assert [item.owner for item in (await memory.page(ADA, 50, None)).items] == ["bob"]
    assert [item.memory.owner for item in await memory.recall(ADA, "secret", 10)] == ["bob"]
    platform.plans["list"] = [leaking(ownerless)]
    assert [item.owner for item in (await memory.page(ADA, 50, None)).items] == [""]


async def test_another_users_memory_is_neither_changed_nor_deleted(
    memory: MemoryMem0Platform, platform: Mem0Platform
) -> None:
    stored = MemoryId(platform.keep("ADA", "likes tea").id)
    with pytest.raises(MemoryNotFound):
        await memory.correct(ADA, stored, "x", None)
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, stored)

    assert operations(platform) == ["get", "get"]


async def test_a_response_about_another_memory_is_not_used(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.plans["get"] = [responding({**foreign(), "user_id": "ada"})]
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
async def test_a_leak_stops_the_operation(call: Call, memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.faults["list"] = leaking(foreign())
    with pytest.raises(MemoryLeaked):
        await call(memory)
    assert platform.sent("delete") == []


@pytest.mark.parametrize("operation", ["list", "search"])
@pytest.mark.row("M5")
async def test_polling_ends_on_a_leak(operation: str, memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    stored = MemoryId(platform.keep("ada", "likes tea").id)
    platform.faults[operation] = leaking(foreign())
    with pytest.raises(MemoryLeaked):
        await memory.correct(ADA, stored, "likes coffee", None)
    with pytest.raises(MemoryLeaked):
        await memory.forget(ADA, stored)


async def test_filters_are_applied_again_to_the_response(memory: MemoryMem0Platform, platform: Mem0Platform) -> None:
    platform.faults["list"] = leaking({**foreign(), "user_id": "ada", "memory": "of another turn"})
    turn = completed()
    await memory.remember(turn)
    await memory.remember(turn)

    assert len(platform.sent("add")) == 1


# Opening, closing, and connections


async def test_the_constructor_does_nothing(platform: Mem0Platform, tmp_path: Path) -> None:
    new_memory(platform, tmp_path / "nowhere")

    assert platform.requests == []
    assert not (tmp_path / "nowhere").exists()


async def test_opening_sends_one_ping_and_not_that_of_mem0s_constructor(platform: Mem0Platform, data_dir: Path) -> None:
    async with new_memory(platform, data_dir):
        pass

    assert operations(platform) == ["ping"]
    assert platform.requests[0].headers["user-agent"].startswith("python-httpx/")


async def test_a_slow_ping_does_not_delay_other_calls(memories: Memories, platform: Mem0Platform) -> None:
    released = asyncio.Event()
    platform.faults["ping"] = after(released)
    memory = await memories(connect_timeout=0.5, request_timeout=1_000)
    assert await memory.recall(ADA, "tea", 3) == []
    released.set()
    await memory.check()


@pytest.mark.parametrize("fault", [hang, reset, garbage, status(500), status(401)])
async def test_a_faulty_platform_is_logged_on_open(fault: Fault, memories: Memories, platform: Mem0Platform) -> None:
    platform.plans["ping"] = [fault]
    with capture_logs() as lines:
        memory = await memories(connect_timeout=0.5, request_timeout=30)
    await memory.check()

    assert ["memory not ready"] == [line["event"] for line in lines]


async def test_a_platform_whose_ping_does_not_name_the_account_is_checked_by_a_listing(
    memories: Memories, platform: Mem0Platform
) -> None:
    platform.faults["ping"] = responding({"status": "ok"})
    with capture_logs() as lines:
        memory = await memories()
        await memory.check()

    assert [] == lines
    assert ["ping", "list"] == operations(platform)  # of the check: those of the start are not kept


async def test_a_platform_that_is_down_on_open_is_used_when_it_is_up(data_dir: Path) -> None:
    platform = Mem0Platform()
    async with platform:
        pass  # takes a port
    async with new_memory(platform, data_dir) as memory:
        with pytest.raises(MemoryUnavailable):
            await memory.recall(ADA, "tea", 3)
        async with platform:
            await memory.store(ADA, "likes tea", 0.5)
            assert await facts(memory) == ["likes tea"]


async def test_a_rejected_key_does_not_prevent_opening(memories: Memories) -> None:
    memory = await memories(api_key="another")
    with pytest.raises(MemoryNotReady):
        await memory.recall(ADA, "tea", 3)


@pytest.mark.row("M10")
async def test_the_client_is_replaced_after_three_pool_timeouts_in_a_row(
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


async def test_a_success_resets_the_count_of_pool_timeouts(memories: Memories, platform: Mem0Platform) -> None:
    memory = await memories(max_connections=1, pool_timeout=0.05, request_timeout=30)
    client = memory._client._client
    for _ in range(2):
        released = asyncio.Event()
        platform.plans["search"] = [after(released)]
        recalling = asyncio.create_task(memory.recall(ADA, "tea", 3))
        while not platform.sent("search"):
            await asyncio.sleep(0.01)
        platform.requests.clear()
        for _ in range(2):
            with pytest.raises(MemoryUnavailable):
                await memory.check()
        released.set()
        await recalling

    assert memory._client._client is client


@pytest.mark.row("M10")
async def test_connections_leaked_by_cancelled_calls_are_recovered(memories: Memories, platform: Mem0Platform) -> None:
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


async def test_a_replaced_client_is_closed(memories: Memories, platform: Mem0Platform) -> None:
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
    """An error and all of its causes and contexts, whether or not a traceback shows them."""
    return [error, *linked(error.__cause__), *linked(error.__context__)] if error else []


@pytest.mark.parametrize("fault", [status(400), status(401), status(429), status(500), garbage, reset, hang])
async def test_errors_and_logs_contain_neither_the_key_nor_text(
    fault: Fault,
    memories: Memories,
    platform: Mem0Platform,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    memory = await memories(request_timeout=0.1, settle_timeout=0.2)
    stored = MemoryId(platform.keep("ada", CANARY).id)
    turn = completed(CANARY, CANARY)
    calls: dict[str, Call] = {
        **CALLS,
        "update": lambda memory: memory.correct(ADA, stored, f"{CANARY} anew", None),
        "delete": lambda memory: memory.forget(ADA, stored),
        "event": lambda memory: memory.remember(turn),
    }
    raised: list[str] = []
    causes: list[str] = []
    for operation, call in calls.items():
        platform.faults = {operation: fault}
        try:
            await call(memory)
        except ChatError as error:
            raised.append("".join(traceback.format_exception(error)))
            causes += [repr(link) for link in linked(error)]
    platform.faults = {"ping": fault}
    await memories(request_timeout=0.1)
    output = "\n".join([caplog.text, *capfd.readouterr(), *raised, *causes])

    assert len(raised) >= len(calls) - 1  # the body of a deletion may be garbage
    assert (CANARY in output, KEY in output) == (False, False)
    assert [record for record in caplog.records if record.name.startswith("mem0")] == []


# Processes


async def started(platform: Mem0Platform, action: str, directory: Path, home: Path) -> asyncio.subprocess.Process:
    """Start a process, and wait until it has sent its first ping."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.harness.apps.hosted_memory", action, platform.host, str(directory)),
        env=clean_environment(HOME=str(home)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    while not platform.sent("ping"):
        await asyncio.sleep(0.01)
    return process


@pytest.mark.parametrize("action", ["open", "build"])
async def test_a_process_ends_while_a_ping_hangs(action: str, platform: Mem0Platform, tmp_path: Path) -> None:
    platform.faults["ping"] = hang
    process = await started(platform, action, tmp_path / "data", tmp_path)
    output, _ = await asyncio.wait_for(process.communicate(b"end\n"), 30)

    assert (process.returncode, output.splitlines()[-1]) == (0, b"still waiting")


@pytest.mark.row("M8")
async def test_mem0_writes_to_the_data_directory_only_and_sends_no_telemetry(
    platform: Mem0Platform, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = await started(platform, "open", tmp_path / "data", home)
    output, _ = await asyncio.wait_for(process.communicate(b"end\n"), 30)

    assert {line for line in output.decode().splitlines() if line.startswith("host")} == {"host 127.0.0.1"}
    assert list(home.iterdir()) == []
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["mem0", "config.json"]


@pytest.mark.row("M8")
def test_telemetry_is_off(tmp_path: Path) -> None:
    mem0 = import_mem0(tmp_path)

    assert mem0.memory.telemetry.client_telemetry.posthog is None
