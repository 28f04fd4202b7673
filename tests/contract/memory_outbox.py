"""The contract suite of MemoryOutbox, together with the history that enqueues turns."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from application.ports.history import ConversationHistory, TurnBegin, TurnEnd
from application.ports.memory_outbox import (
    Claim,
    ForgetUser,
    MemoryOutbox,
    OutboxCounts,
    OutboxJob,
    RememberTurn,
)
from domain.conversation import ConversationId, Turn, TurnId, UserId
from tests.contract.suite import Suite

ADA, BOB = UserId("ada"), UserId("bob")
HOME, WORK = ConversationId("home"), ConversationId("work")
START = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
NOW, HOUR = timedelta(0), timedelta(hours=1)
EMPTY = OutboxCounts(pending=0, dead=0, forgetting=0)


class OutboxStore(ConversationHistory, MemoryOutbox, Protocol):
    """A history and the outbox that shares its transactions."""


async def begin(
    store: OutboxStore, user: UserId = ADA, conversation: ConversationId = HOME, lease: timedelta = HOUR
) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user, conversation, START, "Hello")
    await store.begin(TurnBegin(turn, lease))
    return turn


async def finish(store: OutboxStore, turn: Turn, *, remember: bool = True) -> Turn:
    ended = turn.completed("Hi", "stop")
    assert ended == await store.finish(TurnEnd(ended, remember=remember))
    return ended


async def complete(store: OutboxStore, user: UserId = ADA, conversation: ConversationId = HOME) -> Turn:
    """Complete a turn that is due for memory."""
    return await finish(store, await begin(store, user, conversation))


async def retract(store: OutboxStore, first: Turn) -> Turn:
    """Begin a turn that takes the place of `first` and of the turns after it."""
    turn = Turn(TurnId(str(uuid4())), first.user_id, first.conversation_id, START, "Instead")
    return await store.begin(TurnBegin(turn, HOUR, retracts_from=first.id))


async def begin_forgetting(store: OutboxStore, user: UserId) -> None:
    await store.begin_forgetting(user)


async def claim(store: OutboxStore, limit: int = 100, lease: timedelta = HOUR) -> Sequence[OutboxJob]:
    return await store.claim(limit, lease)


async def claim_turn(store: OutboxStore) -> RememberTurn:
    [job] = await claim(store, 1)
    assert isinstance(job, RememberTurn)
    return job


async def claim_forgetting(store: OutboxStore) -> ForgetUser:
    [job] = await claim(store, 1)
    assert isinstance(job, ForgetUser)
    return job


async def claimed_turns(store: OutboxStore) -> list[Turn]:
    return [job.turn for job in await claim(store) if isinstance(job, RememberTurn)]


class MemoryOutboxContract(Suite[OutboxStore]):
    """Run by every MemoryOutbox."""

    @abstractmethod
    def opened(self, directory: Path) -> AbstractAsyncContextManager[OutboxStore]: ...

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[OutboxStore]:
        async with self.opened(tmp_path) as store:
            yield store

    # Remembering

    async def test_a_completed_turn_is_due(self, store: OutboxStore) -> None:
        turn = await complete(store)

        job = await claim_turn(store)
        assert (turn, 0) == (job.turn, job.attempts)

    async def test_a_turn_finished_without_remembering_is_never_due(self, store: OutboxStore) -> None:
        await finish(store, await begin(store), remember=False)

        assert [] == await claim(store)
        assert EMPTY == await store.counts()

    async def test_claims_are_of_different_users_longest_waiting_first(self, store: OutboxStore) -> None:
        first, _, second = await complete(store, ADA), await complete(store, ADA), await complete(store, BOB)

        assert [first, second] == await claimed_turns(store)

    async def test_at_most_limit_jobs_are_claimed(self, store: OutboxStore) -> None:
        await complete(store, ADA)
        await complete(store, BOB)

        assert 1 == len(await claim(store, limit=1))
        assert 1 == len(await claim(store, limit=1))
        assert [] == await claim(store, limit=1)

    async def test_finishing_a_turn_again_does_not_enqueue_it_again(self, store: OutboxStore) -> None:
        turn = await complete(store)
        await store.settle(await claim_turn(store))
        await store.finish(TurnEnd(turn, remember=True))

        assert [] == await claim(store)

    async def test_finishing_a_deleted_turn_does_not_enqueue_it(self, store: OutboxStore) -> None:
        turn = await begin(store)
        await store.clear(ADA, None)

        assert await store.finish(TurnEnd(turn.completed("Hi", "stop"), remember=True)) is None
        assert [] == await claim(store)

    async def test_a_settled_turn_is_no_longer_due(self, store: OutboxStore) -> None:
        await complete(store)
        other = await complete(store)
        await store.settle(await claim_turn(store))

        assert [other] == await claimed_turns(store)

    async def test_a_postponed_turn_is_due_later(self, store: OutboxStore) -> None:
        await complete(store)
        await store.postpone(await claim_turn(store), HOUR)

        assert [] == await claim(store)
        assert OutboxCounts(pending=1, dead=0, forgetting=0) == await store.counts()

    async def test_postponing_counts_an_attempt(self, store: OutboxStore) -> None:
        turn = await complete(store)
        await store.postpone(await claim_turn(store), NOW)

        job = await claim_turn(store)
        assert (turn, 1) == (job.turn, job.attempts)

    async def test_an_attempt_that_does_not_count_postpones_a_turn_all_the_same(self, store: OutboxStore) -> None:
        await complete(store)
        await store.postpone(await claim_turn(store), NOW)
        await store.postpone(await claim_turn(store), NOW, counts=False)
        job = await claim_turn(store)
        assert 1 == job.attempts

        await store.postpone(job, HOUR, counts=False)
        assert [] == await claim(store)

    async def test_a_given_up_turn_is_counted_as_dead_and_never_due(self, store: OutboxStore) -> None:
        await complete(store)
        pending = await complete(store)
        await store.give_up(await claim_turn(store))

        assert [pending] == await claimed_turns(store)
        assert OutboxCounts(pending=1, dead=1, forgetting=0) == await store.counts()

    async def test_deleting_a_turn_removes_it_from_the_outbox(self, store: OutboxStore) -> None:
        _, other = await complete(store, ADA, HOME), await complete(store, ADA, WORK)
        await store.clear(ADA, HOME)

        assert [other] == await claimed_turns(store)
        assert OutboxCounts(pending=1, dead=0, forgetting=0) == await store.counts()

    async def test_deleting_a_turn_that_was_given_up_removes_it(self, store: OutboxStore) -> None:
        await complete(store)
        await store.give_up(await claim_turn(store))
        await store.clear(ADA, None)

        assert EMPTY == await store.counts()

    async def test_retracted_turns_leave_the_outbox(self, store: OutboxStore) -> None:
        given_up = await complete(store)
        await store.give_up(await claim_turn(store))
        await complete(store)
        others = [await complete(store, ADA, WORK), await complete(store, BOB, HOME)]
        instead = await retract(store, given_up)

        assert OutboxCounts(pending=2, dead=0, forgetting=0) == await store.counts()
        assert others == await claimed_turns(store)
        await finish(store, instead)
        assert OutboxCounts(pending=3, dead=0, forgetting=0) == await store.counts()

    async def test_a_retracted_turn_that_ends_does_not_enter_the_outbox(self, store: OutboxStore) -> None:
        running = await begin(store)
        await retract(store, running)
        await finish(store, running)

        assert EMPTY == await store.counts()

    async def test_a_turn_retracted_while_claimed_can_still_be_settled_and_does_not_return(
        self, store: OutboxStore
    ) -> None:
        for end in (store.settle, lambda job: store.postpone(job, NOW), store.give_up):
            turn = await complete(store)
            job = await claim_turn(store)
            await retract(store, turn)
            await end(job)

            assert EMPTY == await store.counts()
            assert await store.claim_user(ADA, NOW) is not None

    async def test_turns_that_end_while_they_are_retracted_do_not_stay_in_the_outbox(self, store: OutboxStore) -> None:
        for _ in range(10):
            running = await begin(store)
            await asyncio.gather(finish(store, running), retract(store, running))

            assert EMPTY == await store.counts()

    async def test_an_abandoned_turn_does_not_enter_the_outbox(self, store: OutboxStore) -> None:
        turn = await begin(store, lease=NOW)
        await store.finish_abandoned()
        await store.finish(TurnEnd(turn.completed("Hi", "stop"), remember=True))

        assert EMPTY == await store.counts()

    async def test_a_turn_deleted_while_claimed_can_still_be_settled(self, store: OutboxStore) -> None:
        await complete(store)
        job = await claim_turn(store)
        await store.clear(ADA, None)
        await store.settle(job)

        assert EMPTY == await store.counts()
        assert await store.claim_user(ADA, HOUR) is not None

    # Claims

    async def test_a_user_with_a_claimed_job_has_no_other_due(self, store: OutboxStore) -> None:
        first, second = await complete(store), await complete(store)
        job = await claim_turn(store)

        assert first == job.turn
        assert [] == await claim(store)
        assert await store.claim_user(ADA, HOUR) is None
        await store.settle(job)
        assert [second] == await claimed_turns(store)

    async def test_a_job_is_claimed_once_by_concurrent_workers(self, store: OutboxStore) -> None:
        await complete(store, ADA)
        await complete(store, BOB)
        claims = await asyncio.gather(*(claim(store) for _ in range(10)))

        assert 2 == sum(map(len, claims))

    async def test_an_expired_claim_is_taken_over(self, store: OutboxStore) -> None:
        turn = await complete(store)
        await claim(store, lease=NOW)

        assert [turn] == await claimed_turns(store)

    @pytest.mark.parametrize("method", ["settle", "postpone", "give_up"])
    async def test_a_claim_that_was_taken_over_has_no_effect(self, store: OutboxStore, method: str) -> None:
        await complete(store)
        [stale] = await claim(store, lease=NOW)
        current = await claim_turn(store)
        await getattr(store, method)(stale, *([HOUR] if method == "postpone" else []))

        assert await store.claim_user(ADA, HOUR) is None
        await store.postpone(current, NOW)
        assert 1 == (await claim_turn(store)).attempts

    @pytest.mark.parametrize("method", ["end_forgetting", "postpone"])
    async def test_a_claim_to_forget_that_was_taken_over_has_no_effect(self, store: OutboxStore, method: str) -> None:
        await store.begin_forgetting(ADA)
        [stale] = await claim(store, lease=NOW)
        current = await claim_forgetting(store)
        await getattr(store, method)(stale, *([HOUR] if method == "postpone" else []))

        assert 0 == await store.forget_attempts(ADA)
        assert [] == await claim(store)
        await store.postpone(current, NOW)
        assert 1 == (await claim_forgetting(store)).attempts

    async def test_a_claimed_user_has_no_job_due_until_released(self, store: OutboxStore) -> None:
        turn = await complete(store)
        held = await store.claim_user(ADA, HOUR)
        assert held is not None

        assert [] == await claim(store)
        await store.release(held)
        assert [turn] == await claimed_turns(store)

    async def test_an_expired_claim_on_a_user_is_taken_over(self, store: OutboxStore) -> None:
        stale = await store.claim_user(ADA, NOW)
        current = await store.claim_user(ADA, HOUR)

        assert stale is not None
        assert current is not None
        await store.release(stale)
        assert await store.claim_user(ADA, HOUR) is None

    async def test_releasing_an_unknown_claim_does_nothing(self, store: OutboxStore) -> None:
        await store.release(Claim(ADA, "unknown"))

        assert EMPTY == await store.counts()

    # Forgetting

    async def test_a_user_is_to_be_forgotten_until_forgetting_ends(self, store: OutboxStore) -> None:
        await store.begin_forgetting(ADA)
        await store.begin_forgetting(ADA)

        assert (0, None) == (await store.forget_attempts(ADA), await store.forget_attempts(BOB))
        job = await claim_forgetting(store)
        assert (ADA, 0, False) == (job.claim.user_id, job.attempts, job.unsettled)
        await store.end_forgetting(job)
        assert await store.forget_attempts(ADA) is None
        assert [] == await claim(store)

    async def test_forgetting_a_user_removes_their_turns_from_the_outbox(self, store: OutboxStore) -> None:
        await complete(store, ADA)
        await store.begin_forgetting(ADA)
        await store.end_forgetting(await claim_forgetting(store))

        assert [] == await claim(store)
        assert EMPTY == await store.counts()

    async def test_forgetting_a_user_removes_their_turns_that_were_given_up(self, store: OutboxStore) -> None:
        await complete(store)
        await store.give_up(await claim_turn(store))
        await store.begin_forgetting(ADA)

        assert OutboxCounts(pending=0, dead=0, forgetting=1) == await store.counts()

    async def test_a_turn_that_runs_while_its_user_is_forgotten_is_not_enqueued(self, store: OutboxStore) -> None:
        running, other = await begin(store, ADA), await begin(store, BOB)
        await store.begin_forgetting(ADA)
        await store.end_forgetting(await claim_forgetting(store))
        after = await begin(store, ADA)
        for turn in (running, other, after):
            await finish(store, turn)

        assert {other.id, after.id} == {turn.id for turn in await claimed_turns(store)}

    async def test_a_user_is_not_forgotten_while_a_turn_of_theirs_is_being_remembered(self, store: OutboxStore) -> None:
        await complete(store)
        job = await claim_turn(store)
        await store.begin_forgetting(ADA)

        assert [] == await claim(store)
        await store.settle(job)
        await claim_forgetting(store)

    async def test_a_turn_postponed_while_its_user_is_to_be_forgotten_does_not_return(self, store: OutboxStore) -> None:
        await complete(store)
        job = await claim_turn(store)
        await store.begin_forgetting(ADA)
        await store.postpone(job, NOW)
        await store.end_forgetting(await claim_forgetting(store))

        assert [] == await claim(store)
        assert EMPTY == await store.counts()

    async def test_turns_that_begin_while_their_user_is_to_be_forgotten_are_due_afterwards(
        self, store: OutboxStore
    ) -> None:
        await store.begin_forgetting(ADA)
        after = await complete(store, ADA)
        forgetting = await claim_forgetting(store)

        assert [] == await claim(store)
        await store.end_forgetting(forgetting)
        assert [after] == await claimed_turns(store)

    async def test_a_user_to_be_forgotten_cannot_be_claimed(self, store: OutboxStore) -> None:
        await store.begin_forgetting(ADA)

        assert await store.claim_user(ADA, HOUR) is None
        assert await store.claim_user(BOB, HOUR) is not None

    async def test_a_postponed_forgetting_is_due_later_and_counts_an_attempt(self, store: OutboxStore) -> None:
        await store.begin_forgetting(ADA)
        await store.postpone(await claim_forgetting(store), HOUR)

        assert [] == await claim(store)
        assert 1 == await store.forget_attempts(ADA)

    async def test_an_attempt_to_forget_that_does_not_count_is_not_counted(self, store: OutboxStore) -> None:
        await store.begin_forgetting(ADA)
        await store.postpone(await claim_forgetting(store), NOW, counts=False)

        assert 0 == await store.forget_attempts(ADA)

    async def test_asking_again_makes_a_postponed_forgetting_due_immediately(self, store: OutboxStore) -> None:
        await store.begin_forgetting(ADA)
        await store.postpone(await claim_forgetting(store), HOUR)
        await store.begin_forgetting(ADA)

        assert 0 == (await claim_forgetting(store)).attempts

    async def test_an_unconfirmed_write_leaves_forgetting_unsettled(self, store: OutboxStore) -> None:
        held = await store.claim_user(ADA, HOUR)
        assert held is not None
        await store.release(held, unsettled_for=HOUR)
        await store.begin_forgetting(ADA)

        assert (await claim_forgetting(store)).unsettled

    @pytest.mark.parametrize("method", ["postpone", "give_up"])
    async def test_an_unconfirmed_write_of_a_turn_leaves_forgetting_unsettled(
        self, store: OutboxStore, method: str
    ) -> None:
        await complete(store)
        delay = [NOW] if method == "postpone" else []
        await getattr(store, method)(await claim_turn(store), *delay, unsettled_for=HOUR)
        await store.begin_forgetting(ADA)

        assert (await claim_forgetting(store)).unsettled

    async def test_a_later_write_does_not_settle_an_earlier_one(self, store: OutboxStore) -> None:
        for unsettled_for in (HOUR, NOW, None):
            held = await store.claim_user(ADA, HOUR)
            assert held is not None
            await store.release(held, unsettled_for=unsettled_for)
        await store.begin_forgetting(ADA)

        assert (await claim_forgetting(store)).unsettled

    async def test_an_unconfirmed_write_settles_after_its_time(self, store: OutboxStore) -> None:
        await complete(store)
        await store.postpone(await claim_turn(store), HOUR, unsettled_for=NOW)
        await store.begin_forgetting(ADA)

        assert not (await claim_forgetting(store)).unsettled

    async def test_forgetting_continues_after_the_history_is_cleared(self, store: OutboxStore) -> None:
        await complete(store, ADA)
        await store.begin_forgetting(ADA)
        await store.clear(ADA, None)

        assert ADA == (await claim_forgetting(store)).claim.user_id

    async def test_users_to_be_forgotten_are_counted_and_claimed_before_turns(self, store: OutboxStore) -> None:
        await complete(store, UserId("cyd"))
        for user in (BOB, ADA):
            await store.begin_forgetting(user)

        assert OutboxCounts(pending=1, dead=0, forgetting=2) == await store.counts()
        jobs = await claim(store, limit=2)
        assert [ForgetUser, ForgetUser] == [type(job) for job in jobs]
        assert [BOB, ADA] == [job.claim.user_id for job in jobs]


class DurableMemoryOutboxContract(MemoryOutboxContract):
    """Run by every MemoryOutbox that still holds its entries after it is closed and opened again."""

    async def test_a_due_turn_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            turn = await complete(store)
        async with self.opened(tmp_path) as store:
            assert [turn] == await claimed_turns(store)

    async def test_a_settled_turn_stays_settled_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await complete(store)
            pending = await complete(store)
            await store.settle(await claim_turn(store))
        async with self.opened(tmp_path) as store:
            assert [pending] == await claimed_turns(store)

    async def test_the_number_of_attempts_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await complete(store)
            await store.postpone(await claim_turn(store), NOW)
        async with self.opened(tmp_path) as store:
            assert 1 == (await claim_turn(store)).attempts

    async def test_a_dead_turn_is_still_counted_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await complete(store)
            await store.give_up(await claim_turn(store))
        async with self.opened(tmp_path) as store:
            assert OutboxCounts(pending=0, dead=1, forgetting=0) == await store.counts()

    async def test_a_user_is_still_to_be_forgotten_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.begin_forgetting(ADA)
        async with self.opened(tmp_path) as store:
            assert 0 == await store.forget_attempts(ADA)
            await claim_forgetting(store)

    async def test_an_unconfirmed_write_leaves_forgetting_unsettled_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            held = await store.claim_user(ADA, HOUR)
            assert held is not None
            await store.release(held, unsettled_for=HOUR)
        async with self.opened(tmp_path) as store:
            await store.begin_forgetting(ADA)
            assert (await claim_forgetting(store)).unsettled

    async def test_the_outbox_survives_a_process_that_dies(self, tmp_path: Path) -> None:
        await self.call_in_dying_process(tmp_path, complete, BOB)
        await self.call_in_dying_process(tmp_path, begin_forgetting, ADA)
        async with self.opened(tmp_path) as store:
            assert OutboxCounts(pending=1, dead=0, forgetting=1) == await store.counts()

    async def test_a_turn_that_ran_while_its_user_was_forgotten_is_not_enqueued_after_reopening(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            turn = await begin(store)
            await store.begin_forgetting(ADA)
            await store.end_forgetting(await claim_forgetting(store))
        async with self.opened(tmp_path) as store:
            await finish(store, turn)
            assert [] == await claim(store)

    async def test_a_write_that_was_under_way_when_its_process_died_is_unsettled(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await complete(store)
            await claim_turn(store)
        async with self.opened(tmp_path) as store:
            await store.begin_forgetting(ADA)
            for job in await claim(store):
                assert isinstance(job, ForgetUser)
                assert job.unsettled
