"""One thing at a time for each user, and nothing kept of those for whom nothing is done."""

import random

import anyio
import pytest

from application.memory.user_locks import UserLocks
from domain.conversation import UserId

ADA, BOB = UserId("ada"), UserId("bob")


async def test_things_are_done_one_after_the_other_for_a_user_whoever_is_cancelled_meanwhile() -> None:
    locks, inside, chance = UserLocks(), set[UserId](), random.Random(7)

    async def do(user_id: UserId) -> None:
        with anyio.move_on_after(chance.uniform(0, 0.01)):
            async with locks.alone_with(user_id):
                assert user_id not in inside
                inside.add(user_id)
                try:
                    await anyio.sleep(chance.uniform(0, 0.002))
                finally:
                    inside.remove(user_id)

    async with anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(do, (ADA, BOB)[number % 2])

    assert 0 == len(locks)


async def test_one_users_lock_is_not_anothers() -> None:
    locks = UserLocks()
    async with locks.alone_with(ADA), locks.alone_with(BOB, wait=10):
        assert 2 == len(locks)


async def test_who_has_waited_long_enough_gives_up() -> None:
    locks, held, release = UserLocks(), anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with locks.alone_with(ADA):
            held.set()
            await release.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await held.wait()
        with pytest.raises(TimeoutError):
            async with locks.alone_with(ADA, wait=0.01):
                pytest.fail("it was let in")
        release.set()
    async with locks.alone_with(ADA, wait=10):
        pass

    assert 0 == len(locks)
