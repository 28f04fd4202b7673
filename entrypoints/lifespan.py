"""Opening and closing the parts of the service."""

import platform
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog

from entrypoints.container import Container
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown
from entrypoints.version import LIBRARIES, VERSION


@asynccontextmanager
async def lifespan(container: Container) -> AsyncIterator[None]:
    """Open the parts that the container lists, in that order, and close them in reverse order.

    A part that is not an async context manager has nothing to open. Closing shares the time of the shutdown: a part
    that does not close in time is cancelled.

    Raises:
        Unusable: a configured part cannot be used.
    """
    log = structlog.get_logger()
    shutdown = container.shutdown()
    async with AsyncExitStack() as stack:
        for part in container.parts():
            if isinstance(part, AbstractAsyncContextManager):
                await part.__aenter__()
                stack.push_async_exit(partial(_close, part, shutdown))
        log.info("started", version=VERSION, **_configuration(container.settings()))
        yield
    log.info("stopped")


async def _close(part: AbstractAsyncContextManager[object], shutdown: Shutdown, *exc_info: Any) -> bool:
    generator = getattr(part, "gen", None)  # of a part that is a decorated function
    handled: bool | None = False
    async with shutdown.part(getattr(generator, "__qualname__", type(part).__qualname__)):
        handled = await part.__aexit__(*exc_info)
    return bool(handled)


def _configuration(settings: Settings) -> dict[str, str]:
    """Return the fields of the log line that say which model, stores and versions are in use."""
    return {
        "model": settings.openai_model,
        "model_host": settings.model_host,
        "history": settings.history_backend,
        "memory": settings.memory_backend,
        **({"memory_host": settings.memory_host} if settings.memory_host else {}),
        "python": platform.python_version(),
        **LIBRARIES,
    }
