"""The outbox worker: completed turns are remembered and users forgotten, despite failures in between."""

import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.memory.forgetting import Forgetting
from application.memory.outbox_worker import EXTRACTION_POLICY, REMEMBER_POLICY, OutboxWorker
from application.memory.user_lock import UserLock
from application.ports.history import HistoryUnavailable, TurnBegin, TurnEnd
from application.ports.memory import FactsNotExtracted, MemoryNotReady, MemoryRefused, MemoryUnavailable
from application.ports.memory_outbox import Claim, OutboxCounts, OutboxJob, RememberTurn
from application.ports.turn_observer import Where
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from tests.harness.exchange import TIMEOUT
from tests.harness.fakes import LearningMemory
from tests.harness.script import Observed, until

ADA, BOB = UserId("ada"), UserId("bob")
START = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = OutboxCounts(0, 0, 0)
HOUR = timedelta(hours=1)


@dataclass
class Script:
    """An outbox worker with everything it works on, and a clock that stands still until it is moved."""

    memory: LearningMemory = field(default_factory=LearningMemory)
    store: Callable[[Callable[[], datetime]], HistoryInMemory] = HistoryInMemory
    observer: Observed = field(default_factory=Observed)
    time: datetime = START
    poll_interval: float = 5.0
    wait_timeout: float = 5.0
    settle_time: timedelta = timedelta(minutes=2)

    def __post_init__(self) -> None:
        self.outbox = self.store(lambda: self.time)
        self.restart_worker()
        self.forgetting = Forgetting(
            self.memory, self.outbox, self.observer, self.worker.wake, wait_timeout=self.wait_timeout, poll_interval=0
        )
        self.lock = UserLock(
            self.memory, self.outbox, self.observer, self.worker.wake, wait_timeout=self.wait_timeout, poll_interval=0
        )

    def restart_worker(self) -> None:
        self.worker = OutboxWorker(
            self.memory,
            self.outbox,
            self.observer,
            lambda: self.time,
            poll_interval=self.poll_interval,
            settle_time=self.settle_time,
        )

    async def begin(self, text: str = "I like tea", user: UserId = ADA) -> Turn:
        turn = Turn(TurnId(str(uuid4())), user, DEFAULT_CONVERSATION, self.time, text)
        await self.outbox.begin(TurnBegin(turn, HOUR))
        return turn

    async def complete(self, text: str = "I like tea", user: UserId = ADA) -> Turn:
        """Put a completed turn into the outbox."""
        ended = (await self.begin(text, user)).completed("I see.", "stop")
        await self.outbox.finish(TurnEnd(ended, remember=True))
        return ended

    async def facts(self, user: UserId = ADA) -> list[str]:
        return [one.fact for one in (await self.memory.page(user, 200, None)).items]

    async def is_empty(self) -> bool:
        return await self.outbox.counts() == EMPTY

    async def until_empty(self) -> None:
        with anyio.fail_after(TIMEOUT):
            while not await self.is_empty():
                await anyio.sleep(0.001)

    @property
    def attempts(self) -> int:
        return self.memory.calls.count("remember")

    async def until_attempted(self, times: int) -> None:
        await until(lambda: self.attempts >= times)
        for _ in range(20):
            await anyio.sleep(0)

    async def move(self, by: timedelta) -> None:
        self.time += by
        self.worker.wake()

    async def move_until_empty(self, step: timedelta) -> None:
        """Let as many steps pass as all attempts take."""
        with anyio.fail_after(TIMEOUT):
            while not await self.is_empty():
                await self.move(step)
                await anyio.sleep(0.01)


@asynccontextmanager
async def working(script: Script) -> AsyncIterator[Script]:
    async with script.worker.opened():
        yield script


# Remembering


async def test_a_turn_in_the_outbox_is_remembered() -> None:
    async with working(Script()) as script:
        await script.complete("I like tea")
        script.worker.wake()
        await script.until_empty()

        assert ["I like tea"] == await script.facts()


async def test_turns_left_by_an_earlier_process_are_remembered_at_the_start() -> None:
    script = Script()
    for n in range(10):
        await script.complete(f"fact {n}")
    async with working(script):
        await script.until_empty()

    assert {f"fact {n}" for n in range(10)} == set(await script.facts())


@pytest.mark.row("M3")
async def test_a_job_of_a_worker_that_died_is_repeated_when_its_lease_expires() -> None:
    script = Script()
    await script.complete()
    await script.outbox.claim(1, HOUR)
    async with working(script):
        for _ in range(20):
            await anyio.sleep(0)
        assert 0 == script.attempts
        await script.move(HOUR)
        await script.until_empty()

    assert ["I like tea"] == await script.facts()


async def test_two_workers_on_one_outbox_remember_each_turn_once() -> None:
    script = Script()
    other = OutboxWorker(script.memory, script.outbox, script.observer, lambda: script.time)
    for n in range(20):
        await script.complete(f"fact {n}", UserId(f"user{n % 7}"))
    async with working(script), other.opened():
        await script.until_empty()

    assert 20 == script.attempts


@pytest.mark.row("M2")
async def test_a_failed_attempt_is_repeated_with_exponential_backoff() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryUnavailable(), MemoryUnavailable(), MemoryUnavailable()]
        await script.complete()
        script.worker.wake()
        for attempt in range(1, 4):
            await script.until_attempted(attempt)
            await script.move(REMEMBER_POLICY.first_delay * 2 ** (attempt - 1) - timedelta(milliseconds=1))
            await script.until_attempted(attempt)
            assert attempt == script.attempts
            await script.move(timedelta(milliseconds=1))
        await script.until_empty()

        assert (4, ["I like tea"]) == (script.attempts, await script.facts())


async def test_a_retry_after_is_honoured() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryUnavailable(retry_after=60)]
        await script.complete()
        script.worker.wake()
        await script.until_attempted(1)
        await script.move(timedelta(seconds=59))
        await script.until_attempted(1)
        assert 1 == script.attempts
        await script.move(timedelta(seconds=1))
        await script.until_empty()


async def test_a_refused_turn_is_given_up_immediately() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryRefused()]
        await script.complete()
        script.worker.wake()
        await script.until_attempted(1)

        assert OutboxCounts(0, 1, 0) == await script.outbox.counts()
        assert [Where.GIVING_UP_TURN] == [where for where, _ in script.observer.failures]


async def test_a_turn_is_never_given_up_while_the_memory_is_not_ready() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryNotReady()] * 100
        await script.complete()
        script.worker.wake()
        for attempt in range(1, 101):
            await script.until_attempted(attempt)
            assert script.worker.not_ready is not None
            await script.move(REMEMBER_POLICY.max_delay)
        await script.until_empty()

        assert ["I like tea"] == await script.facts()
        assert script.worker.not_ready is None


@pytest.mark.parametrize("failure", [MemoryUnavailable(), FactsNotExtracted()])
async def test_attempts_while_the_memory_was_not_ready_do_not_count_against_a_turn(failure: MemoryUnavailable) -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryNotReady()] * 30 + [failure] * 5
        await script.complete()
        script.worker.wake()
        for attempt in range(1, 36):
            await script.until_attempted(attempt)
            await script.move(REMEMBER_POLICY.max_delay)
        await script.until_empty()

        assert ["I like tea"] == await script.facts()


async def test_attempts_before_a_restart_do_not_count_against_a_turn_if_the_memory_was_not_ready() -> None:
    script = Script()
    script.memory.plans["remember"] = [MemoryNotReady()] * 30 + [MemoryUnavailable()] * 5
    await script.complete()
    async with working(script):
        for attempt in range(1, 30):
            await script.until_attempted(attempt)
            await script.move(REMEMBER_POLICY.max_delay)
        await script.until_attempted(30)
    script.restart_worker()
    async with working(script):
        for attempt in range(31, 36):
            await script.move(REMEMBER_POLICY.max_delay)
            await script.until_attempted(attempt)
        await script.move(REMEMBER_POLICY.max_delay)
        await script.until_empty()

        assert ["I like tea"] == await script.facts()


async def test_while_the_memory_is_not_ready_turns_are_repeated_with_exponential_backoff() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryNotReady()] * 2
        await script.complete()
        script.worker.wake()
        for attempt, delay in ((1, REMEMBER_POLICY.first_delay), (2, 2 * REMEMBER_POLICY.first_delay)):
            await script.until_attempted(attempt)
            await script.move(delay - timedelta(milliseconds=1))
            await script.until_attempted(attempt)
            assert attempt == script.attempts
            await script.move(timedelta(milliseconds=1))
        await script.until_empty()


async def test_a_turn_without_extracted_facts_is_repeated_counted_and_at_last_given_up() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [FactsNotExtracted()] * 100
        await script.complete()
        script.worker.wake()
        attempts = 0
        while (await script.outbox.counts()).pending:
            attempts += 1
            await script.until_attempted(attempts)
            await script.move(EXTRACTION_POLICY.max_delay)

        assert OutboxCounts(0, 1, 0) == await script.outbox.counts()
        assert EXTRACTION_POLICY.min_attempts == attempts == script.worker.failed_extractions
        assert [Where.GIVING_UP_TURN] == [where for where, _ in script.observer.failures]


@pytest.mark.row("M2")
async def test_a_turn_is_given_up_after_a_day() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryUnavailable()] * 100
        await script.complete()
        script.worker.wake()
        attempts = 0
        while (await script.outbox.counts()).pending:
            attempts += 1
            await script.until_attempted(attempts)
            await script.move(REMEMBER_POLICY.max_delay)

        assert OutboxCounts(0, 1, 0) == await script.outbox.counts()
        assert script.time - START > timedelta(days=1)


async def test_a_failure_for_one_user_does_not_delay_another() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryUnavailable()]
        await script.complete("of Ada", ADA)
        script.worker.wake()
        await script.until_attempted(1)
        await script.complete("of Bob", BOB)
        script.worker.wake()
        await script.until_attempted(2)

        assert ["of Bob"] == await script.facts(BOB)


async def test_an_outbox_that_fails_is_polled_again() -> None:
    class Failing(HistoryInMemory):
        failures = 2

        async def claim(self, limit: int, lease: timedelta) -> Sequence[OutboxJob]:
            if self.failures:
                self.failures -= 1
                raise HistoryUnavailable
            return await super().claim(limit, lease)

    script = Script(store=Failing)
    await script.complete()
    async with working(script):
        await until(lambda: len(script.observer.failures) == 1)
        script.worker.wake()
        await until(lambda: len(script.observer.failures) == 2)
        script.worker.wake()
        await script.until_empty()

    assert [Where.CLAIMING_JOBS] * 2 == [where for where, _ in script.observer.failures]


async def test_a_job_whose_result_cannot_be_stored_is_repeated_after_the_next_poll() -> None:
    class Failing(HistoryInMemory):
        failures = 1

        async def settle(self, job: RememberTurn) -> None:
            if self.failures:
                self.failures -= 1
                raise HistoryUnavailable
            await super().settle(job)

    script = Script(store=Failing, poll_interval=0.01)
    await script.complete()
    async with working(script):
        await until(lambda: len(script.observer.failures) == 1)
        await script.until_empty()

    assert (["I like tea"], [Where.RUNNING_JOB]) == (await script.facts(), [w for w, _ in script.observer.failures])


async def test_turns_that_are_due_at_shutdown_are_still_remembered() -> None:
    script = Script()
    async with working(script):
        await script.complete()

    assert ["I like tea"] == await script.facts()
    assert await script.is_empty()


async def test_a_memory_that_hangs_does_not_delay_the_shutdown_and_its_turn_stays_in_the_outbox() -> None:
    script = Script()
    script.memory.gate = anyio.Event()
    await script.complete()
    with anyio.fail_after(10):
        async with working(script):
            await until(lambda: script.attempts == 1)

    assert OutboxCounts(1, 0, 0) == await script.outbox.counts()


async def test_a_user_whose_memory_hangs_delays_no_other_user() -> None:
    async with working(Script()) as script:
        script.memory.held[BOB] = anyio.Event()
        for n in range(30):
            await script.complete(f"of Bob {n}", BOB)
        script.worker.wake()
        await until(lambda: script.attempts == 1)
        await script.complete("of Ada", ADA)
        script.worker.wake()
        await script.until_attempted(2)

        assert ["of Ada"] == await script.facts(ADA)
        assert await script.forgetting.forget(ADA)


async def test_an_unexpected_error_concerns_one_turn_and_is_retried() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [KeyError("x")]
        await script.complete("of Bob", BOB)
        script.worker.wake()
        await script.until_attempted(1)
        await script.complete("of Ada", ADA)
        script.worker.wake()
        await script.until_attempted(2)
        await script.move(REMEMBER_POLICY.first_delay)
        await script.until_empty()

        assert (["of Ada"], ["of Bob"]) == (await script.facts(ADA), await script.facts(BOB))


@pytest.mark.parametrize("seconds", [1e15, float("inf")])
async def test_a_retry_after_is_limited_to_the_longest_delay(seconds: float) -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryUnavailable(retry_after=seconds)]
        await script.complete()
        script.worker.wake()
        await script.until_attempted(1)
        await script.move(REMEMBER_POLICY.max_delay)
        await script.until_empty()


async def test_after_a_long_outage_a_turn_is_attempted_several_times_whatever_its_age() -> None:
    script = Script()
    await script.complete()
    script.time += timedelta(days=2)
    failures = REMEMBER_POLICY.min_attempts - 1
    script.memory.plans["remember"] = [MemoryUnavailable()] * failures
    async with working(script):
        for attempt in range(1, failures + 1):
            await script.until_attempted(attempt)
            await script.move(REMEMBER_POLICY.max_delay)
        await script.until_empty()

    assert ["I like tea"] == await script.facts()


async def test_the_outbox_is_polled_without_being_woken() -> None:
    async with working(Script(poll_interval=0.01)) as script:
        await anyio.sleep(0.03)
        await script.complete()
        await script.until_empty()

        assert ["I like tea"] == await script.facts()


# Forgetting


async def test_a_user_is_forgotten_before_the_call_returns_if_possible() -> None:
    async with working(Script()) as script:
        await script.memory.store(ADA, "likes tea", 0.5)

        assert await script.forgetting.forget(ADA)
        assert ([], True) == (await script.facts(), await script.is_empty())


async def test_an_uncertain_forgetting_is_repeated_until_it_is_certain() -> None:
    async with working(Script()) as script:
        script.memory.uncertain = 2

        assert not await script.forgetting.forget(ADA)
        assert await script.forgetting.is_pending(ADA)
        await script.move_until_empty(timedelta(seconds=5))
        assert 3 == script.memory.calls.count("forget_all")


async def test_a_failed_forgetting_is_retried_until_it_succeeds() -> None:
    async with working(Script()) as script:
        await script.memory.store(ADA, "likes tea", 0.5)
        script.memory.plans["forget_all"] = [MemoryUnavailable(), MemoryUnavailable(), MemoryRefused()]

        assert not await script.forgetting.forget(ADA)
        assert OutboxCounts(0, 0, 1) == await script.outbox.counts()
        await script.move_until_empty(HOUR)
        assert [] == await script.facts()


async def test_a_memory_that_keeps_failing_is_asked_to_forget_less_and_less_often() -> None:
    async with working(Script()) as script:
        script.memory.plans["forget_all"] = [MemoryUnavailable()] * 100
        assert not await script.forgetting.forget(ADA)
        for _ in range(50):
            script.worker.wake()
            await anyio.sleep(0)

        assert 1 == script.memory.calls.count("forget_all")


async def test_asking_again_repeats_a_failed_forgetting_immediately() -> None:
    async with working(Script()) as script:
        script.memory.plans["forget_all"] = [MemoryUnavailable()]

        assert not await script.forgetting.forget(ADA)
        assert await script.forgetting.forget(ADA)


async def test_a_slow_forgetting_continues_after_the_call_has_returned() -> None:
    async with working(Script(wait_timeout=0.01)) as script:
        await script.memory.store(ADA, "likes tea", 0.5)
        script.memory.held[ADA] = anyio.Event()

        assert not await script.forgetting.forget(ADA)
        await anyio.sleep(0.05)
        script.memory.held[ADA].set()
        await script.until_empty()
        assert 1 == script.memory.calls.count("forget_all")
        assert [] == await script.facts()


async def test_forgetting_survives_the_process() -> None:
    script = Script()
    await script.memory.store(ADA, "likes tea", 0.5)
    await script.outbox.begin_forgetting(ADA)
    async with working(script):
        await script.until_empty()

    assert [] == await script.facts()


async def test_many_users_that_cannot_be_forgotten_do_not_delay_another() -> None:
    script = Script()
    script.memory.plans["forget_all"] = [MemoryUnavailable()] * 150
    for n in range(150):
        await script.outbox.begin_forgetting(UserId(f"a{n:03}"))
    async with working(script):
        await until(lambda: script.memory.calls.count("forget_all") == 150)

        assert await script.forgetting.forget(UserId("z"))


async def test_a_memory_without_extraction_forgets_without_the_outbox() -> None:
    memory = LearningMemory()
    memory.extracts_from_turns = False
    script = Script(memory)
    memory.plans["forget_all"] = [MemoryUnavailable()]
    with pytest.raises(MemoryUnavailable):
        await script.forgetting.forget(ADA)

    assert await script.forgetting.forget(ADA)
    assert await script.is_empty()


async def test_a_failed_begin_of_forgetting_leaves_no_trace() -> None:
    class Failing(HistoryInMemory):
        async def begin_forgetting(self, user_id: UserId) -> None:
            raise HistoryUnavailable

    async with working(Script(store=Failing)) as script:
        turn = await script.begin("I like tea")
        with pytest.raises(HistoryUnavailable):
            await script.forgetting.forget(ADA)
        await script.outbox.finish(TurnEnd(turn.completed("I see.", "stop"), remember=True))
        script.worker.wake()
        await script.until_empty()

        assert ["I like tea"] == await script.facts()


async def test_a_turn_that_runs_while_its_user_is_forgotten_is_not_remembered() -> None:
    async with working(Script()) as script:
        before = [await script.begin("of Ada"), await script.begin("of Bob", BOB)]
        assert await script.forgetting.forget(ADA)
        after = await script.begin("of Ada, later")
        for turn in (*before, after):
            await script.outbox.finish(TurnEnd(turn.completed("I see.", "stop"), remember=True))
        script.worker.wake()
        await script.until_empty()

        assert (["of Ada, later"], ["of Bob"]) == (await script.facts(ADA), await script.facts(BOB))


@pytest.mark.row("M4")
@pytest.mark.parametrize("lead", range(20))
async def test_nothing_is_remembered_of_a_user_who_is_forgotten_meanwhile(lead: int) -> None:
    async with working(Script()) as script:
        for _ in range(50):
            script.memory.held[ADA] = anyio.Event()
            await script.complete("I like tea")
            script.worker.wake()
            for _ in range(lead):
                await anyio.sleep(0)
            script.memory.held.pop(ADA).set()
            assert await script.forgetting.forget(ADA)
            assert [] == await script.facts()
        await script.until_empty()
        for _ in range(50):
            await anyio.sleep(0)

        assert [] == await script.facts()


async def test_an_unconfirmed_write_that_arrives_late_is_forgotten() -> None:
    async with working(Script()) as script:
        script.memory.plans["remember"] = [MemoryUnavailable()]
        await script.complete()
        script.worker.wake()
        await script.until_attempted(1)
        assert not await script.forgetting.forget(ADA)
        await script.memory.store(ADA, "arrives late", 0.5)
        await script.move(timedelta(minutes=2))
        await script.until_empty()

        assert [] == await script.facts()


# The lock on a user's memories


async def test_nothing_is_written_for_a_user_who_is_being_forgotten() -> None:
    script = Script()
    await script.outbox.begin_forgetting(ADA)
    with pytest.raises(MemoryUnavailable) as refusal:
        async with script.lock.held(ADA):
            pytest.fail("the lock was granted")
    async with script.lock.held(BOB):
        pass

    assert refusal.value.retry_after is not None


async def test_a_write_waits_for_the_job_of_the_same_user_but_not_forever() -> None:
    async with working(Script(wait_timeout=0.01)) as script:
        script.memory.held[ADA] = anyio.Event()
        await script.complete()
        script.worker.wake()
        await until(lambda: script.attempts == 1)
        with pytest.raises(MemoryUnavailable):
            async with script.lock.held(ADA):
                pytest.fail("the lock was granted")
        script.memory.held[ADA].set()
        await script.until_empty()
        async with script.lock.held(ADA):
            pass


async def test_writes_of_one_user_exclude_each_other() -> None:
    script = Script()
    inside = 0

    async def write() -> None:
        nonlocal inside
        async with script.lock.held(ADA):
            inside += 1
            await anyio.sleep(0.001)
            assert 1 == inside
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(write)


async def test_a_fact_that_is_being_stored_is_forgotten_too() -> None:
    async with working(Script()) as script:
        storing = anyio.Event()

        async def store() -> None:
            async with script.lock.held(ADA):
                storing.set()
                await anyio.sleep(0.01)
                await script.memory.store(ADA, "likes tea", 0.5)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store)
            await storing.wait()
            assert await script.forgetting.forget(ADA)

        assert [] == await script.facts()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_unconfirmed_or_cancelled_write_keeps_forgetting_pending(cancelled: bool) -> None:
    async with working(Script()) as script:
        with anyio.CancelScope() as scope:
            try:
                async with script.lock.held(ADA):
                    if cancelled:
                        scope.cancel()
                        await anyio.sleep(0)
                    raise MemoryUnavailable
            except MemoryUnavailable:
                pass

        assert not await script.forgetting.forget(ADA)


async def test_the_lock_is_released_after_an_error() -> None:
    script = Script()
    with pytest.raises(ValueError, match="a bug"):
        async with script.lock.held(ADA):
            raise ValueError("a bug")
    async with script.lock.held(ADA):
        pass


class TrackedId(UserId):
    """A user id that supports weak references, to test that nothing refers to it any more."""


async def test_nothing_is_kept_of_users_for_whom_all_work_is_done() -> None:
    async def work_for(user_id: TrackedId) -> "weakref.ref[TrackedId]":
        await script.complete("I like tea", user_id)
        assert await script.forgetting.forget(user_id)
        async with script.lock.held(user_id):
            pass
        await script.outbox.clear(user_id, None)
        return weakref.ref(user_id)

    script = Script(settle_time=timedelta(0))
    async with working(script):
        users = [await work_for(TrackedId(f"user{number}")) for number in range(10)]

    assert [None] * 10 == referents(users)


async def test_nothing_is_kept_of_a_user_once_an_unconfirmed_write_has_settled() -> None:
    async def write_for(user_id: TrackedId) -> "weakref.ref[TrackedId]":
        with pytest.raises(MemoryUnavailable):
            async with script.lock.held(user_id):
                raise MemoryUnavailable
        return weakref.ref(user_id)

    script = Script()
    async with working(script):
        user = await write_for(TrackedId("carol"))
        assert ["carol"] == referents([user])
        await script.move(timedelta(minutes=2))
        await until(lambda: [None] == referents([user]))


def referents(references: Sequence["weakref.ref[TrackedId]"]) -> list[TrackedId | None]:
    """Return the ids that something still refers to, and None for the others."""
    gc.collect()
    return [reference() for reference in references]


class SlowClaims(HistoryInMemory):
    """Claims users, but answers late."""

    async def claim_user(self, user_id: UserId, lease: timedelta) -> Claim | None:
        claim = await super().claim_user(user_id, lease)
        await anyio.sleep(0.02)
        return claim


async def test_a_caller_that_is_cancelled_while_it_claims_a_user_leaves_no_claim() -> None:
    script = Script(store=SlowClaims)
    with anyio.move_on_after(0.01):
        async with script.lock.held(ADA):
            await anyio.sleep_forever()

    assert await script.outbox.claim_user(ADA, HOUR)


async def test_a_claim_that_arrives_at_the_end_of_the_wait_is_used() -> None:
    script = Script(store=SlowClaims, wait_timeout=0.01)
    async with script.lock.held(ADA):
        pass

    assert await script.outbox.claim_user(ADA, HOUR)


class UnreleasableUsers(HistoryInMemory):
    async def release(self, claim: Claim, *, unsettled_for: timedelta | None = None) -> None:
        raise HistoryUnavailable


async def test_a_change_stands_if_its_user_cannot_be_released() -> None:
    script = Script(store=UnreleasableUsers)
    async with script.lock.held(ADA):
        pass

    assert [Where.RELEASING_USER] == [where for where, _ in script.observer.failures]
