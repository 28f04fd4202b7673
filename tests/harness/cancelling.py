"""Cancelling a call when it has got somewhere, however long that takes."""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from tests.harness.exchange import TIMEOUT


async def cancelled_when(
    condition: Callable[[], Any], call: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any
) -> None:
    """Cancel `call(*arguments)` as soon as the condition holds, and wait until it has ended."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, *arguments)
        with anyio.fail_after(TIMEOUT):
            while not condition():
                await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()
