"""Opening and closing: the one place where the parts of the service start and end."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from adapters.sql.database import DatabaseUnusable
from entrypoints.container import Container
from entrypoints.settings import SettingsError
from entrypoints.version import VERSION


@asynccontextmanager
async def opened(container: Container) -> AsyncIterator[None]:
    """Open what is configured, end what a dead process left running, and close it all in reverse order.

    Raises:
        SettingsError: something that is configured can not be used.
    """
    log = structlog.get_logger()
    async with AsyncExitStack() as stack:
        if container.settings().uses_database:
            database = container.database()
            try:
                await database.open()
            except DatabaseUnusable as unusable:
                raise SettingsError(str(unusable)) from None
            stack.push_async_callback(database.close)
        stack.push_async_callback(container.upstream().close)
        await stack.enter_async_context(container.memory_keeper().open())
        abandoned = await container.history().finish_abandoned()
        await stack.enter_async_context(container.running_turns().open())
        log.info("started", version=VERSION, abandoned_turns=abandoned)
        yield
    log.info("stopped")
