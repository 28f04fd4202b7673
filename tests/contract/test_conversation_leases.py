"""What every ConversationLeases does: one turn at a time in a conversation, first come, first served."""

import asyncio
from collections.abc import Callable

import anyio
import pytest

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from application.ports.conversation_leases import ConversationLeases, Lease
from domain.conversation import ConversationId, UserId
from domain.errors import TurnInProgress

ANN, BEN = UserId("ann"), UserId("ben")
WORK, HOME = ConversationId("work"), ConversationId("home")
LONG = 30.0
"""Seconds that no test waits for: a wait that should be over by then."""


@pytest.fixture(params=[ConversationLeasesInProcess], ids=["in_process"])
def leases(request: pytest.FixtureRequest) -> ConversationLeases:
    make: Callable[[], ConversationLeases] = request.param
    return make()


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def waiting(leases: ConversationLeases, wait: float = LONG) -> asyncio.Task[Lease]:
    """Someone who waits for Ann's work conversation, in the queue already."""
    task = asyncio.create_task(leases.acquire(ANN, WORK, wait=wait))
    await settle()
    return task


async def is_free(leases: ConversationLeases) -> bool:
    try:
        lease = await leases.acquire(ANN, WORK, wait=0)
    except TurnInProgress:
        return False
    await lease.release()
    return True


async def test_a_free_conversation_is_had_at_once(leases: ConversationLeases) -> None:
    await leases.acquire(ANN, WORK, wait=0)

    assert not await is_free(leases)


async def test_a_released_conversation_is_free_again(leases: ConversationLeases) -> None:
    await (await leases.acquire(ANN, WORK, wait=0)).release()

    assert await is_free(leases)


async def test_other_conversations_and_other_users_are_not_in_the_way(leases: ConversationLeases) -> None:
    await leases.acquire(ANN, WORK, wait=0)

    await leases.acquire(ANN, HOME, wait=0)
    await leases.acquire(BEN, WORK, wait=0)


async def test_without_waiting_a_busy_conversation_is_refused_at_once(leases: ConversationLeases) -> None:
    await leases.acquire(ANN, WORK, wait=0)

    with pytest.raises(TurnInProgress) as refusal:
        await leases.acquire(ANN, WORK, wait=0)

    assert refusal.value.retry_after == 1


async def test_who_waits_gets_the_conversation_when_it_is_released(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second = await waiting(leases)

    assert not second.done()
    await first.release()
    await second
    assert not await is_free(leases)


async def test_the_conversation_goes_to_those_who_wait_in_the_order_they_came(leases: ConversationLeases) -> None:
    lease = await leases.acquire(ANN, WORK, wait=0)
    queue = [await waiting(leases) for _ in range(4)]

    for place, expected in enumerate(queue):
        await lease.release()
        lease = await expected
        await settle()
        assert [True] * (place + 1) + [False] * (3 - place) == [task.done() for task in queue]


async def test_nobody_overtakes_those_who_wait_between_a_release_and_their_waking(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second = await waiting(leases)

    await first.release()

    with pytest.raises(TurnInProgress):
        await leases.acquire(ANN, WORK, wait=0)
    await second


async def test_a_fifth_who_would_wait_is_refused_at_once(leases: ConversationLeases) -> None:
    await leases.acquire(ANN, WORK, wait=0)
    queue = [await waiting(leases) for _ in range(4)]

    with anyio.fail_after(5), pytest.raises(TurnInProgress):
        await leases.acquire(ANN, WORK, wait=LONG)

    for task in queue:
        task.cancel()


async def test_a_wait_that_is_over_is_refused_and_leaves_the_queue(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)

    with pytest.raises(TurnInProgress):
        await leases.acquire(ANN, WORK, wait=0.01)

    await first.release()
    assert await is_free(leases)


async def test_whoever_is_cancelled_while_waiting_leaves_the_queue(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second, third = await waiting(leases), await waiting(leases)

    second.cancel()
    await settle()
    await first.release()

    await third
    assert second.cancelled()


async def test_a_place_left_by_a_cancelled_waiter_can_be_taken(leases: ConversationLeases) -> None:
    await leases.acquire(ANN, WORK, wait=0)
    queue = [await waiting(leases) for _ in range(4)]

    queue.pop().cancel()
    await settle()
    queue.append(await waiting(leases))

    assert not queue[-1].done()
    for task in queue:
        task.cancel()


async def test_whoever_is_cancelled_at_the_moment_of_the_release_is_passed_over(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second, third = await waiting(leases), await waiting(leases)

    second.cancel()
    await first.release()

    await third
    await settle()
    assert second.cancelled()


async def test_whoever_is_cancelled_alone_in_the_queue_at_the_moment_of_the_release_leaves_it_free(
    leases: ConversationLeases,
) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second = await waiting(leases)

    second.cancel()
    await first.release()

    with pytest.raises(asyncio.CancelledError):
        await second
    assert await is_free(leases)


async def test_whoever_is_cancelled_just_when_granted_passes_the_conversation_on(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second, third = await waiting(leases), await waiting(leases)

    await first.release()
    second.cancel()

    await third
    assert second.cancelled()


async def test_whoever_is_cancelled_just_when_granted_with_nobody_behind_leaves_it_free(
    leases: ConversationLeases,
) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second = await waiting(leases)

    await first.release()
    second.cancel()
    await settle()

    assert await is_free(leases)


async def test_releasing_again_does_not_take_the_conversation_from_the_next_one(leases: ConversationLeases) -> None:
    first = await leases.acquire(ANN, WORK, wait=0)
    second, third = await waiting(leases), await waiting(leases)

    await first.release()
    await second
    await first.release()
    await settle()

    assert not third.done()
    third.cancel()


async def test_many_who_come_wait_and_leave_at_random_moments_leave_the_conversation_free(
    leases: ConversationLeases,
) -> None:
    held = 0
    most = 0

    async def visit(number: int) -> None:
        nonlocal held, most
        for _ in range(number % 7):
            await asyncio.sleep(0)
        try:
            lease = await leases.acquire(ANN, WORK, wait=0.001 * (number % 5))
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
    for number in range(500):
        tasks.append(asyncio.create_task(visit(number)))
        if number % 3 == 0:
            await asyncio.sleep(0)
        if number % 4 == 0:
            tasks[number // 2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert set() == {type(result) for result in results} - {type(None), asyncio.CancelledError}
    assert most == 1
    assert await is_free(leases)


async def test_conversations_that_are_free_take_no_memory() -> None:
    leases = ConversationLeasesInProcess()
    for number in range(100):
        lease = await leases.acquire(UserId(f"user{number}"), WORK, wait=0)
        await lease.release()

    assert len(leases._queues) == 0
