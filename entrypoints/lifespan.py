"""Opening and closing: the one place where the parts of the service start and end."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from adapters.mem0_unusable import Mem0Unusable
from domain.errors import Unusable
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
            try:
                await stack.enter_async_context(container.database())
            except Unusable as unusable:
                raise SettingsError(str(unusable)) from None
        stack.push_async_callback(container.upstream().close)
        if container.settings().memory_backend in ("mem0", "mem0_platform"):
            memory = container.unguarded_memory()
            try:
                await memory.open()
            except Mem0Unusable as unusable:
                raise SettingsError(str(unusable)) from None
            except ImportError:
                raise SettingsError('Mem0 is not installed; run: pip install "smart-chatbot-backend[mem0]"') from None
            except OSError as error:
                raise SettingsError(f"Mem0 can not keep its files in DATA_DIR: {error.strerror}.") from None
            stack.push_async_callback(memory.close)
        await stack.enter_async_context(container.outbox_worker().opened())
        await stack.enter_async_context(container.turn_runner().opened())
        log.info("started", version=VERSION)
        yield
    log.info("stopped")
