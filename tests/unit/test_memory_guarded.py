"""A memory that hangs, fails or mixes up its users harms no chat."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import anyio
import pytest

from adapters.memory_guarded import MAX_FAILURES, GuardedMemory
from application.ports.memory import MemoryLeaked, MemoryRefused, MemoryUnavailable
from domain.conversation import UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page
from tests.fakes import LearningMemory
from tests.unit.stage import Observed

ADA = UserId("ada")
OF_BOB = Memory(MemoryId("00000000-0000-4000-8000-000000000000"), "bob", "secret", 0.5, datetime.now(UTC))


def guarded(memory: LearningMemory, timeout: float = 60) -> tuple[GuardedMemory, Observed]:
    observer = Observed()
    return GuardedMemory(memory, observer, recall_timeout=timeout), observer


async def test_a_recall_that_takes_too_long_is_given_up() -> None:
    memory = LearningMemory()
    memory.gate = anyio.Event()
    guard, observer = guarded(memory, timeout=0.01)
    with pytest.raises(MemoryUnavailable):
        await guard.recall(ADA, "tea", 10)

    assert ["recalling memories"] == [doing for doing, _ in observer.failures]


async def test_a_memory_that_keeps_failing_is_left_alone() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(100)]
    guard, observer = guarded(memory)
    for _ in range(20):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)

    assert MAX_FAILURES == memory.calls.count("recall") == len(observer.failures)


async def test_while_recalls_are_spared_it_is_said_how_long_and_all_else_goes_on() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
    with pytest.raises(MemoryUnavailable) as refusal:
        await guard.recall(ADA, "tea", 10)
    await guard.store(ADA, "likes tea", 0.5)

    assert refusal.value.retry_after is not None
    assert 0 < refusal.value.retry_after <= 30


async def test_what_is_remembered_in_the_background_spares_no_recall() -> None:
    memory = LearningMemory()
    memory.plans["forget_all"] = [MemoryUnavailable() for _ in range(MAX_FAILURES * 2)]
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES * 2):
        with pytest.raises(MemoryUnavailable):
            await guard.forget_all(ADA)

    assert [] == await guard.recall(ADA, "tea", 10)


async def test_after_the_pause_one_call_shows_how_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.memory_guarded.PAUSE", 0.05)
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES + 1)]
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
    await anyio.sleep(0.06)
    for _ in range(3):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
    assert MAX_FAILURES + 1 == memory.calls.count("recall")
    await anyio.sleep(0.06)

    assert [] == await guard.recall(ADA, "tea", 10)
    assert [] == await guard.recall(ADA, "tea", 10)


async def test_failures_between_successes_do_not_add_up() -> None:
    memory = LearningMemory()
    guard, _ = guarded(memory)
    for _ in range(MAX_FAILURES * 2):
        memory.plans["recall"] = [MemoryUnavailable()]
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)
        await guard.recall(ADA, "tea", 10)

    assert MAX_FAILURES * 4 == memory.calls.count("recall")


@pytest.mark.parametrize("error", [MemoryRefused(), MemoryNotFound()])
async def test_an_answer_is_no_failure_even_where_it_is_a_no(error: Exception) -> None:
    memory = LearningMemory()
    memory.plans["forget_all"] = [error] * 20
    guard, observer = guarded(memory)
    for _ in range(20):
        with pytest.raises(type(error)):
            await guard.forget_all(ADA)

    assert [] == observer.failures


async def test_what_an_adapter_does_not_explain_is_a_failure_like_any_other() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [KeyError("text of a user")]
    guard, observer = guarded(memory)
    with pytest.raises(MemoryUnavailable) as failure:
        await guard.recall(ADA, "tea", 10)

    assert isinstance(failure.value.__cause__, KeyError)
    assert ["recalling memories"] == [doing for doing, _ in observer.failures]


class Leaking(LearningMemory):
    """Answers with another user's memory."""

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        await super().recall(user_id, query, limit)
        return [Recalled(OF_BOB, 1.0)]

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        return Page([OF_BOB], None)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        return OF_BOB


@pytest.mark.parametrize("method", ["recall", "page", "correct"])
async def test_an_answer_with_anothers_memory_is_not_used_and_stops_the_memory(method: str) -> None:
    memory = Leaking()
    guard, observer = guarded(memory)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "recall": lambda: guard.recall(ADA, "tea", 10),
        "page": lambda: guard.page(ADA, 10, None),
        "correct": lambda: guard.correct(ADA, OF_BOB.id, "x", None),
    }
    with pytest.raises(MemoryLeaked):
        await calls[method]()
    with pytest.raises(MemoryUnavailable):
        await guard.store(ADA, "likes tea", 0.5)

    assert [MemoryLeaked] == [type(error) for _, error in observer.failures]
    assert "store" not in memory.calls
