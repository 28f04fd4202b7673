"""Opening and closing the parts of the service."""

import platform
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import structlog

from entrypoints.container import Container
from entrypoints.settings import Settings
from entrypoints.version import LIBRARIES, VERSION


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
        log.info("started", version=VERSION, **_configuration(container.settings()))
        yield
    log.info("stopped")


def _configuration(settings: Settings) -> dict[str, str]:
    """Return the fields of the log line that say which model, stores and versions are in use."""
    return {
        "model": settings.openai_model,
        "model_host": settings.model_host,
        "history": settings.history_backend,
        "memory": settings.memory_backend,
        "python": platform.python_version(),
        **LIBRARIES,
    }
