"""Waiting until the platform has done as it was told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from application.ports.memory import MemoryLeaked, MemoryUnavailable

PAUSES: Final = (0.01, 2.0)
"""The first and the longest pause between two looks, in seconds; each is twice the one before."""

Seen = TypeVar("Seen")


async def seen(look: Callable[[], Awaitable[Seen | None]]) -> Seen:
    """What there is to see, once it is something or true.

    A platform that fails meanwhile is asked again: it has been told already.

    Raises:
        MemoryRefused, MemoryLeaked: looking did.
    """
    pause, longest = PAUSES
    while True:
        wait = pause
        try:
            if found := await look():
                return found
        except MemoryLeaked:
            raise
        except MemoryUnavailable as failure:
            wait = max(pause, failure.retry_after or 0)
        await asyncio.sleep(wait)
        pause = min(2 * pause, longest)


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Raises: MemoryUnavailable: it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise MemoryUnavailable("The memory platform has not done yet as it was told.") from None
