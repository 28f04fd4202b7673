"""Open and close the parts of the service."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from entrypoints.container import Container
from entrypoints.version import VERSION


@asynccontextmanager
async def lifespan(container: Container) -> AsyncIterator[None]:
    """Open the container's parts in order, and close them in reverse.

    Raises:
        Unusable: A configured part cannot be used.
    """
    log = structlog.get_logger()
    async with AsyncExitStack() as stack:
        for part in container.parts():
            await stack.enter_async_context(part)
        log.info("started", version=VERSION)
        yield
    log.info("stopped")
