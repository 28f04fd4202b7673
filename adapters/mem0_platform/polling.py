"""Polling until the platform shows the effect of a write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from application.ports.memory import MemoryLeaked, MemoryNotReady, MemoryUnavailable

T = TypeVar("T")


async def poll(look: Callable[[], Awaitable[T | None]], *, first_pause: float = 0.01, max_pause: float = 2.0) -> T:
    """Call `look` until it returns a truthy value, and return that.

    Pauses, in seconds, double from `first_pause` to `max_pause`. If the platform is unavailable meanwhile, polling goes
    on: the write has been accepted already.

    Raises:
        MemoryRefused, MemoryLeaked, MemoryNotReady: `look` raised it.
    """
    pause = first_pause
    while True:
        wait = pause
        try:
            if result := await look():
                return result
        except (MemoryLeaked, MemoryNotReady):
            raise
        except MemoryUnavailable as failure:
            wait = max(pause, failure.retry_after or 0)
        await asyncio.sleep(wait)
        pause = min(2 * pause, max_pause)


@asynccontextmanager
async def settle_within(seconds: float) -> AsyncIterator[None]:
    """Limit how long a write and the polling for its effect take.

    Raises:
        MemoryUnavailable: the time is up.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise MemoryUnavailable("The memory platform has accepted the request but not completed it yet.") from None
