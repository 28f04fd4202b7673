"""GuardedMemory: timeouts, circuit breaker and tenant isolation."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from adapters.memory_guarded import GuardedMemory
from application.ports.history import HistoryUnavailable
from application.ports.memory import MemoryDisabled, MemoryLeaked, MemoryRefused, MemoryUnavailable
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page
from tests.harness.fakes import LearningMemory
from tests.harness.script import Observed, until

ADA, BOB = UserId("ada"), UserId("bob")
MAX_FAILURES = 5
COOLDOWN = 0.05
OF_BOB = Memory(MemoryId("00000000-0000-4000-8000-000000000000"), "bob", "secret", 0.5, datetime.now(UTC))


def guarded(memory: LearningMemory, **limits: float) -> tuple[GuardedMemory, Observed]:
    observer = Observed()
    options: dict[str, Any] = {"recall_timeout": 60, "max_failures": MAX_FAILURES, **limits}
    return GuardedMemory(memory, observer, **options), observer


@pytest.mark.row("M1")
async def test_a_recall_times_out() -> None:
    memory = LearningMemory()
    memory.gate = anyio.Event()
    guard, observer = guarded(memory, recall_timeout=0.01)
    with pytest.raises(MemoryUnavailable, match=r"did not respond within 0\.01 s \(MEMORY_RECALL_TIMEOUT\)\.$"):
        await guard.recall(ADA, "tea", 10)

    assert ["recalling memories"] == [where for where, _ in observer.failures]


@pytest.mark.row("M1")
async def test_recalls_stop_after_five_failures_in_a_row() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(100)]
    guard, observer = guarded(memory)
    for _ in range(20):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)

    assert MAX_FAILURES == memory.calls.count("recall") == len(observer.failures)


@pytest.mark.row("M1")
async def test_an_open_circuit_has_a_retry_after_and_affects_only_recalls() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
    with pytest.raises(MemoryUnavailable) as error:
        await guard.recall(ADA, "tea", 10)
    await guard.store(ADA, "likes tea", 0.5)

    assert error.value.retry_after is not None
    assert 0 < error.value.retry_after <= 30


async def test_failures_of_other_calls_do_not_open_the_circuit() -> None:
    memory = LearningMemory()
    memory.plans["forget_all"] = [MemoryUnavailable() for _ in range(MAX_FAILURES * 2)]
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES * 2):
        with pytest.raises(MemoryUnavailable):
            await guard.forget_all(ADA)

    assert [] == await guard.recall(ADA, "tea", 10)


@pytest.mark.row("M1")
async def test_after_the_cooldown_one_probe_decides_whether_the_circuit_closes() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES + 1)]
    guard, _ = guarded(memory, cooldown=COOLDOWN)
    for _ in range(MAX_FAILURES):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
    await anyio.sleep(COOLDOWN + 0.01)
    for _ in range(3):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
    assert MAX_FAILURES + 1 == memory.calls.count("recall")
    await anyio.sleep(COOLDOWN + 0.01)

    assert [] == await guard.recall(ADA, "tea", 10)
    assert [] == await guard.recall(ADA, "tea", 10)


async def test_a_success_resets_the_count_of_failures() -> None:
    memory = LearningMemory()
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES * 2):
        memory.plans["recall"] = [MemoryUnavailable()]
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
        await guard.recall(ADA, "tea", 10)

    assert MAX_FAILURES * 4 == memory.calls.count("recall")


async def test_a_refusal_is_reported_and_does_not_open_the_circuit() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryRefused()] * (MAX_FAILURES * 2)
    guard, observer = guarded(memory)
    for _ in range(MAX_FAILURES * 2):
        with pytest.raises(MemoryRefused):
            await guard.recall(ADA, "tea", 10)

    assert [] == await guard.recall(ADA, "tea", 10)
    assert ["recalling memories"] * MAX_FAILURES * 2 == [where for where, _ in observer.failures]


@pytest.mark.parametrize("error", [MemoryNotFound(), UnknownCursor(), MemoryDisabled()])
async def test_mistakes_of_the_caller_are_not_reported(error: Exception) -> None:
    memory = LearningMemory()
    memory.plans["forget_all"] = [error]
    guard, observer = guarded(memory)
    with pytest.raises(type(error)):
        await guard.forget_all(ADA)

    assert [] == observer.failures


async def test_an_error_of_another_port_becomes_memory_unavailable() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [HistoryUnavailable()]
    guard, _ = guarded(memory)
    with pytest.raises(MemoryUnavailable):
        await guard.recall(ADA, "tea", 10)


async def failed_recalls(guard: GuardedMemory, times: int) -> None:
    for _ in range(times):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)


async def test_only_one_of_many_concurrent_recalls_becomes_the_probe() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    guard, _ = guarded(memory, cooldown=COOLDOWN)
    await failed_recalls(guard, MAX_FAILURES)
    await anyio.sleep(COOLDOWN + 0.01)
    memory.gate = anyio.Event()
    rejected = []

    async def recall() -> None:
        try:
            await guard.recall(ADA, "tea", 10)
        except MemoryUnavailable:
            rejected.append(True)
            if len(rejected) == 9:
                memory.gate.set()

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(recall)

    assert MAX_FAILURES + 1 == memory.calls.count("recall")


async def test_a_cancelled_probe_is_followed_by_another() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    guard, _ = guarded(memory, cooldown=COOLDOWN)
    await failed_recalls(guard, MAX_FAILURES)
    await anyio.sleep(COOLDOWN + 0.01)
    memory.gate = anyio.Event()
    with anyio.move_on_after(0.01):
        await guard.recall(ADA, "tea", 10)
    memory.gate.set()

    assert [] == await guard.recall(ADA, "tea", 10)


async def test_the_end_of_a_recall_from_before_the_circuit_opened_does_not_close_it() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    memory.held[BOB] = anyio.Event()
    guard, _ = guarded(memory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guard.recall, BOB, "tea", 10)
        await until(lambda: memory.calls == ["recall"])
        await failed_recalls(guard, MAX_FAILURES)
        tasks.cancel_scope.cancel()
    with pytest.raises(MemoryUnavailable):
        await guard.recall(ADA, "tea", 10)

    assert 1 + MAX_FAILURES == memory.calls.count("recall")


async def test_an_untranslated_exception_becomes_memory_unavailable() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [KeyError("text of a user")]
    guard, observer = guarded(memory)
    with pytest.raises(MemoryUnavailable) as failure:
        await guard.recall(ADA, "tea", 10)

    assert isinstance(failure.value.__cause__, KeyError)
    assert [("recalling memories", KeyError)] == [(where, type(error)) for where, error in observer.failures]


class Leaking(LearningMemory):
    """Returns another user's memory after one of the user's own."""

    owner = "bob"

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        return replace(await super().store(user_id, fact, importance), owner=self.owner)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        own = replace(OF_BOB, owner=user_id)
        return [Recalled(own, 1.0), Recalled(replace(OF_BOB, owner=self.owner), 1.0)]

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        return Page([replace(OF_BOB, owner=user_id), replace(OF_BOB, owner=self.owner)], None)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        return replace(OF_BOB, owner=self.owner)


@pytest.mark.parametrize("owner", ["bob", "ada2", "ad", "ADA", "*", ""])
@pytest.mark.parametrize("method", ["recall", "page", "correct", "store"])
@pytest.mark.row("M5")
async def test_another_users_memory_is_discarded_and_all_calls_are_blocked(method: str, owner: str) -> None:
    memory = Leaking()
    memory.owner = owner
    guard, observer = guarded(memory)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "recall": lambda: guard.recall(ADA, "tea", 10),
        "page": lambda: guard.page(ADA, 10, None),
        "correct": lambda: guard.correct(ADA, OF_BOB.id, "x", None),
        "store": lambda: guard.store(ADA, "likes tea", 0.5),
    }
    with pytest.raises(MemoryLeaked):
        await calls[method]()
    with pytest.raises(MemoryUnavailable):
        await guard.forget_all(ADA)

    assert [MemoryLeaked] == [type(error) for _, error in observer.failures]
    assert "forget_all" not in memory.calls


async def test_calls_are_admitted_again_some_time_after_a_leak() -> None:
    memory = Leaking()
    guard, _ = guarded(memory, cooldown=COOLDOWN)
    with pytest.raises(MemoryLeaked):
        await guard.recall(ADA, "tea", 10)
    await anyio.sleep(COOLDOWN + 0.01)

    assert await guard.forget_all(ADA)


@pytest.mark.parametrize("limit", ["call_timeout", "remember_timeout"])
async def test_every_call_has_a_time_limit(limit: str) -> None:
    memory = LearningMemory()
    memory.held[ADA] = anyio.Event()
    guard, _ = guarded(memory, **{limit: 0.01})
    turn = Turn(TurnId("t"), ADA, DEFAULT_CONVERSATION, datetime.now(UTC), "Hello").completed("Hi", "stop")
    with pytest.raises(MemoryUnavailable, match=r"within 0\.01 s\.$"), anyio.fail_after(10):
        await (guard.remember(turn) if limit == "remember_timeout" else guard.store(ADA, "likes tea", 0.5))
