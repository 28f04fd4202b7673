"""A memory that hangs, fails or mixes up its users harms no chat."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import anyio
import pytest

from adapters.memory_guarded import MAX_FAILURES, GuardedMemory
from application.ports.history import HistoryUnavailable
from application.ports.memory import MemoryDisabled, MemoryLeaked, MemoryRefused, MemoryUnavailable
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page
from tests.harness.fakes import LearningMemory
from tests.harness.script import Observed

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


async def test_a_refusal_is_reported_and_spares_no_recall() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryRefused()] * (MAX_FAILURES * 2)
    guard, observer = guarded(memory)
    for _ in range(MAX_FAILURES * 2):
        with pytest.raises(MemoryRefused):
            await guard.recall(ADA, "tea", 10)

    assert [] == await guard.recall(ADA, "tea", 10)
    assert ["recalling memories"] * MAX_FAILURES * 2 == [doing for doing, _ in observer.failures]


@pytest.mark.parametrize("error", [MemoryNotFound(), UnknownCursor(), MemoryDisabled()])
async def test_what_whoever_asks_got_wrong_is_no_failure(error: Exception) -> None:
    memory = LearningMemory()
    memory.plans["forget_all"] = [error]
    guard, observer = guarded(memory)
    with pytest.raises(type(error)):
        await guard.forget_all(ADA)

    assert [] == observer.failures


async def test_an_error_that_is_not_the_ports_for_the_method_is_a_failure() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [HistoryUnavailable()]
    guard, _ = guarded(memory)
    with pytest.raises(MemoryUnavailable):
        await guard.recall(ADA, "tea", 10)


async def failed_recalls(guard: GuardedMemory, times: int) -> None:
    for _ in range(times):
        with pytest.raises(MemoryUnavailable):
            await guard.recall(ADA, "tea", 10)


async def test_of_many_who_ask_after_the_pause_one_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.memory_guarded.PAUSE", 0.05)
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    guard, _ = guarded(memory)
    await failed_recalls(guard, MAX_FAILURES)
    await anyio.sleep(0.06)
    memory.gate = anyio.Event()
    spared = []

    async def ask() -> None:
        try:
            await guard.recall(ADA, "tea", 10)
        except MemoryUnavailable:
            spared.append(True)
            if len(spared) == 9:
                memory.gate.set()

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)

    assert MAX_FAILURES + 1 == memory.calls.count("recall")


async def test_a_try_that_shows_nothing_leaves_the_next_one_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.memory_guarded.PAUSE", 0.05)
    memory = LearningMemory()
    memory.plans["recall"] = [MemoryUnavailable() for _ in range(MAX_FAILURES)]
    guard, _ = guarded(memory)
    await failed_recalls(guard, MAX_FAILURES)
    await anyio.sleep(0.06)
    memory.gate = anyio.Event()
    with anyio.move_on_after(0.01):  # its client leaves
        await guard.recall(ADA, "tea", 10)
    memory.gate.set()

    assert [] == await guard.recall(ADA, "tea", 10)


async def test_what_an_adapter_does_not_explain_is_a_failure_like_any_other() -> None:
    memory = LearningMemory()
    memory.plans["recall"] = [KeyError("text of a user")]
    guard, observer = guarded(memory)
    with pytest.raises(MemoryUnavailable) as failure:
        await guard.recall(ADA, "tea", 10)

    assert isinstance(failure.value.__cause__, KeyError)
    assert ["recalling memories"] == [doing for doing, _ in observer.failures]


class Leaking(LearningMemory):
    """Answers with another user's memory, behind one of the user's own."""

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
async def test_an_answer_with_anothers_memory_is_not_used_and_stops_the_memory(method: str, owner: str) -> None:
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


async def test_after_a_while_a_memory_that_mixed_up_users_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.memory_guarded.PAUSE", 0.05)
    memory = Leaking()
    guard, _ = guarded(memory)
    with pytest.raises(MemoryLeaked):
        await guard.recall(ADA, "tea", 10)
    await anyio.sleep(0.06)

    assert await guard.forget_all(ADA)


@pytest.mark.parametrize("limit", ["TIMEOUT", "REMEMBER_TIMEOUT"])
async def test_no_call_takes_longer_than_it_may(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"adapters.memory_guarded.{limit}", 0.01)
    memory = LearningMemory()
    memory.held[ADA] = anyio.Event()
    guard, _ = guarded(memory)
    turn = Turn(TurnId("t"), ADA, DEFAULT_CONVERSATION, datetime.now(UTC), "Hello").completed("Hi", "stop")
    with pytest.raises(MemoryUnavailable), anyio.fail_after(10):
        await (guard.remember(turn) if limit == "REMEMBER_TIMEOUT" else guard.store(ADA, "likes tea", 0.5))
