"""The time budget of a shutdown."""

import asyncio

import pytest

from entrypoints.shutdown import Shutdown


async def test_each_part_may_use_half_of_the_time_that_is_left() -> None:
    shutdown = Shutdown(600, margin=0)
    assert 290 < shutdown.share() < 300
    assert 290 < shutdown.share() < 300


async def test_a_second_signal_shortens_the_budget() -> None:
    shutdown = Shutdown(600)
    assert [shutdown.signalled(), shutdown.signalled()] == [False, True]
    assert shutdown.share() < 0.5


async def test_a_part_that_takes_too_long_is_cancelled_and_named() -> None:
    shutdown = Shutdown(600)
    async with shutdown.part("memory", 0.01):
        await asyncio.sleep(3600)
    assert shutdown.hung == ["memory"]


async def test_a_timeout_of_the_part_itself_is_an_error_of_it() -> None:
    shutdown = Shutdown(600)
    with pytest.raises(TimeoutError, match="its own"):
        async with shutdown.part("memory"):
            raise TimeoutError("its own")
    assert not shutdown.hung
