"""The contract suite of ConversationLeases."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import anyio
import pytest

from application.ports.conversation_leases import ConversationLeases, Lease
from domain.conversation import ConversationId, TurnId, UserId
from domain.errors import TurnInProgress
from tests.contract.suite import Suite

ANN, BEN = UserId("ann"), UserId("ben")
WORK, HOME = ConversationId("work"), ConversationId("home")
LONG = 30.0
"""Seconds: a timeout that no test reaches."""


_numbers = count(1)


def new_turn_id() -> TurnId:
    return TurnId(f"00000000-0000-4000-8000-{next(_numbers):012}")


async def acquire(
    leases: ConversationLeases,
    *,
    user: UserId = ANN,
    conversation: ConversationId = WORK,
    turn_id: TurnId | None = None,
    wait: float = 0,
    first: bool = False,
) -> Lease:
    return await leases.acquire(turn_id or new_turn_id(), user, conversation, wait=wait, first=first)


async def is_free(leases: ConversationLeases) -> bool:
    try:
        lease = await acquire(leases)
    except TurnInProgress:
        return False
    await lease.release()
    return True


class ConversationLeasesContract(Suite[ConversationLeases]):
    """Run by every ConversationLeases."""

    @pytest.fixture
    async def leases(self, tmp_path: Path) -> AsyncIterator[ConversationLeases]:
        async with self.opened(tmp_path) as leases:
            yield leases

    async def settle(self, leases: ConversationLeases) -> None:
        """Return when everything that was requested of the adapter so far has been done, or waits for a release.

        An adapter whose work is done by another thread or process overrides this.
        """
        for _ in range(10):
            await asyncio.sleep(0)

    async def start_waiting(
        self, leases: ConversationLeases, *, turn_id: TurnId | None = None, first: bool = False
    ) -> asyncio.Task[Lease]:
        """Start a task that waits for Ann's work conversation; returns when it is in the queue."""
        task = asyncio.create_task(acquire(leases, turn_id=turn_id, wait=LONG, first=first))
        await self.settle(leases)
        return task

    async def test_a_free_conversation_is_acquired_immediately(self, leases: ConversationLeases) -> None:
        await acquire(leases)

        assert not await is_free(leases)

    async def test_a_released_conversation_is_free_again(self, leases: ConversationLeases) -> None:
        await (await acquire(leases)).release()

        assert await is_free(leases)

    async def test_other_conversations_and_other_users_are_not_blocked(self, leases: ConversationLeases) -> None:
        await acquire(leases)

        await acquire(leases, conversation=HOME)
        await acquire(leases, user=BEN)

    async def test_without_waiting_a_busy_conversation_is_rejected_immediately(
        self, leases: ConversationLeases
    ) -> None:
        await acquire(leases)

        with pytest.raises(TurnInProgress) as refusal:
            await acquire(leases)

        assert refusal.value.retry_after == 1

    async def test_a_release_lets_the_next_waiter_in(self, leases: ConversationLeases) -> None:
        first = await acquire(leases)
        second = await self.start_waiting(leases)

        assert not second.done()
        await first.release()
        await second
        assert not await is_free(leases)

    async def test_waiters_acquire_in_the_order_they_arrived(self, leases: ConversationLeases) -> None:
        lease = await acquire(leases)
        queue = [await self.start_waiting(leases) for _ in range(4)]

        for place, expected in enumerate(queue):
            await lease.release()
            lease = await expected
            await self.settle(leases)
            assert [True] * (place + 1) + [False] * (3 - place) == [task.done() for task in queue]

    async def test_a_newcomer_cannot_overtake_a_waiter_that_is_just_being_woken(
        self, leases: ConversationLeases
    ) -> None:
        first = await acquire(leases)
        second = await self.start_waiting(leases)

        await first.release()

        with pytest.raises(TurnInProgress):
            await acquire(leases)
        await second

    async def test_a_fifth_waiter_is_rejected_immediately(self, leases: ConversationLeases) -> None:
        await acquire(leases)
        queue = [await self.start_waiting(leases) for _ in range(4)]

        with anyio.fail_after(5), pytest.raises(TurnInProgress):
            await acquire(leases, wait=LONG)

        for task in queue:
            task.cancel()

    async def test_a_waiter_that_times_out_leaves_the_queue(self, leases: ConversationLeases) -> None:
        first = await acquire(leases)

        with pytest.raises(TurnInProgress):
            await acquire(leases, wait=0.01)

        await first.release()
        assert await is_free(leases)

    async def test_a_cancelled_waiter_leaves_the_queue(self, leases: ConversationLeases) -> None:
        first = await acquire(leases)
        second, third = await self.start_waiting(leases), await self.start_waiting(leases)

        second.cancel()
        await self.settle(leases)
        await first.release()

        await third
        assert second.cancelled()

    async def test_a_cancelled_waiter_makes_room_for_another(self, leases: ConversationLeases) -> None:
        await acquire(leases)
        queue = [await self.start_waiting(leases) for _ in range(4)]

        queue.pop().cancel()
        await self.settle(leases)
        queue.append(await self.start_waiting(leases))

        assert not queue[-1].done()
        for task in queue:
            task.cancel()

    async def test_a_waiter_cancelled_just_before_the_release_is_skipped(self, leases: ConversationLeases) -> None:
        first = await acquire(leases)
        second, third = await self.start_waiting(leases), await self.start_waiting(leases)

        second.cancel()
        await first.release()

        await third
        await self.settle(leases)
        assert second.cancelled()

    async def test_a_sole_waiter_cancelled_just_before_the_release_leaves_it_free(
        self,
        leases: ConversationLeases,
    ) -> None:
        first = await acquire(leases)
        second = await self.start_waiting(leases)

        second.cancel()
        await first.release()

        with pytest.raises(asyncio.CancelledError):
            await second
        assert await is_free(leases)

    async def test_a_waiter_cancelled_just_after_the_release_passes_the_lease_on(
        self, leases: ConversationLeases
    ) -> None:
        first = await acquire(leases)
        second, third = await self.start_waiting(leases), await self.start_waiting(leases)

        await first.release()
        second.cancel()

        await third
        assert second.cancelled()

    async def test_a_sole_waiter_cancelled_just_after_the_release_leaves_it_free(
        self,
        leases: ConversationLeases,
    ) -> None:
        first = await acquire(leases)
        second = await self.start_waiting(leases)

        await first.release()
        second.cancel()
        await self.settle(leases)

        assert await is_free(leases)

    async def test_those_who_wait_first_go_ahead_of_others_in_the_order_they_arrived(
        self, leases: ConversationLeases
    ) -> None:
        lease = await acquire(leases)
        fourth = await self.start_waiting(leases)
        queue = [await self.start_waiting(leases, first=True) for _ in range(3)]

        for expected in [*queue, fourth]:
            await lease.release()
            lease = await expected

    async def test_those_who_wait_first_are_limited_too(self, leases: ConversationLeases) -> None:
        await acquire(leases)
        queue = [await self.start_waiting(leases) for _ in range(4)]

        with anyio.fail_after(5), pytest.raises(TurnInProgress):
            await acquire(leases, wait=LONG, first=True)

        for task in queue:
            task.cancel()

    async def test_the_holder_is_known_before_its_turn_begins(self, leases: ConversationLeases) -> None:
        one, two = new_turn_id(), new_turn_id()

        holders = [await leases.holder(ANN, WORK)]
        lease = await acquire(leases, turn_id=one)
        waiting = await self.start_waiting(leases, turn_id=two)
        holders.append(await leases.holder(ANN, WORK))
        await lease.release()
        lease = await waiting
        holders.append(await leases.holder(ANN, WORK))
        await lease.release()
        holders.append(await leases.holder(ANN, WORK))

        assert [None, one, two, None] == holders
        assert await leases.holder(ANN, HOME) is None

    async def test_releasing_twice_does_not_release_the_next_holders_lease(self, leases: ConversationLeases) -> None:
        first = await acquire(leases)
        second, third = await self.start_waiting(leases), await self.start_waiting(leases)

        await first.release()
        await second
        await first.release()
        await self.settle(leases)

        assert not third.done()
        third.cancel()

    async def test_many_waiters_that_cancel_and_time_out_never_overlap_and_leave_it_free(
        self,
        leases: ConversationLeases,
    ) -> None:
        held = 0
        most = 0

        async def visit(number: int) -> None:
            nonlocal held, most
            for _ in range(number % 7):
                await asyncio.sleep(0)
            try:
                lease = await acquire(leases, wait=0.001 * (number % 5))
            except TurnInProgress:
                return
            held += 1
            most = max(most, held)
            try:
                for _ in range(number % 3):
                    await asyncio.sleep(0)
            finally:
                held -= 1
                await lease.release()

        tasks = []
        for number in range(420):  # every combination of the remainders above
            tasks.append(asyncio.create_task(visit(number)))
            if number % 3 == 0:
                await asyncio.sleep(0)
            if number % 4 == 0:
                tasks[number // 2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert set() == {type(result) for result in results} - {type(None), asyncio.CancelledError}
        assert most == 1
        assert await is_free(leases)
