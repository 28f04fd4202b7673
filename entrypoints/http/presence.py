"""Whether whoever asked is still there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TypeVar

import anyio
from starlette.types import Receive

from application.ports.live_turns import Reader
from entrypoints.http.errors import ClientGone

Result = TypeVar("Result")


@contextmanager
def cancelled_when_gone(receive: Receive) -> Iterator[None]:
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
    with cancelled_when_gone(receive):
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
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
