"""Blocking work that nobody waits for longer than they like, not even the process's end."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")


async def in_daemon_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises. Whoever is cancelled leaves it to itself.

    The threads of an event loop's executor are joined when the interpreter ends: work that hangs in one would keep the
    process alive.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def settle(how: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            how(value)

    def tell(how: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            loop.call_soon_threadsafe(settle, how, value)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            tell(outcome.set_exception, error)
        else:
            tell(outcome.set_result, result)

    threading.Thread(target=run, name="mem0", daemon=True).start()
    return await outcome
