"""Whether whoever asked is still there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import anyio
from starlette.types import Receive

from application.ports.live_turns import Reader
from entrypoints.http.errors import ClientGone

Result = TypeVar("Result")


async def while_present(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or until the client leaves. The request's body must have been read.

    It has a task of its own: waking up through the frames of all layers above would cost a stream 1 µs a chunk.
    """
    working = asyncio.create_task(work)
    with anyio.CancelScope() as watch:
        working.add_done_callback(lambda _: watch.cancel())
        try:
            await _until_gone(receive)
        finally:
            working.cancel()
    await asyncio.wait([working])
    if not working.cancelled():
        working.result()


@contextmanager
def _cancelled_when_gone(receive: Receive) -> Iterator[None]:
    """Cancel what runs inside when the client leaves. The request's body must have been read."""
    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(_cancel_when_gone(receive, scope))
        try:
            yield
        finally:
            watcher.cancel()


async def unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """What `work` comes to.

    Raises:
        ClientGone: the client left first; `work` has been cancelled.
    """
    with _cancelled_when_gone(receive):
        return await work
    raise ClientGone


@asynccontextmanager
async def leaving_on_error(reader: Reader) -> AsyncIterator[None]:
    """Have the reader leave if what runs inside fails; otherwise someone else takes it over."""
    async with AsyncExitStack() as stack:
        stack.push_async_exit(reader)
        yield
        stack.pop_all()


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    await _until_gone(receive)
    scope.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
