"""Opening and closing the parts of the service."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import structlog

from entrypoints.container import Container
from entrypoints.version import VERSION


@asynccontextmanager
async def lifespan(container: Container) -> AsyncIterator[None]:
    """Open the parts that the container lists, in that order, and close them in reverse order.

    A part that is not an async context manager has nothing to open.

    Raises:
        Unusable: a configured part cannot be used.
    """
    log = structlog.get_logger()
    async with AsyncExitStack() as stack:
        for part in container.parts():
            if isinstance(part, AbstractAsyncContextManager):
                await stack.enter_async_context(part)
        log.info("started", version=VERSION)
        yield
    log.info("stopped")
