"""Opening and closing the parts of the service."""

import asyncio
import platform
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final

import anyio
import structlog

from application.ports.history import HistoryUnavailable
from domain.errors import TemporarilyUnusable, Unusable
from domain.retry import RetryPolicy
from entrypoints.container import Container
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown
from entrypoints.version import LIBRARIES, VERSION

RETRY_POLICY: Final = RetryPolicy(first_delay=timedelta(seconds=0.5), max_delay=timedelta(seconds=10))


class Lifespan:
    """Opens the parts that the container lists, in that order, and closes them in reverse order.

    `async with lifespan` returns when all parts are open, or when one is temporarily unusable. In the latter case the
    service is waiting, i.e. alive but not ready: that part is tried again with backoff, and then the rest is opened, in
    the background. If a part turns out to be unusable meanwhile, `on_failure` has to stop the service; by default it
    sends SIGTERM to the process.

    A part that is not an async context manager has nothing to open. Closing shares the time of the shutdown: a part
    that does not close in time is cancelled.
    """

    def __init__(
        self,
        container: Container,
        *,
        on_failure: Callable[[], None] | None = None,
        retry_policy: RetryPolicy = RETRY_POLICY,
    ) -> None:
        self.waiting = False
        """Whether the service is served although a part has still to be opened."""
        self.failure: Exception | None = None
        """Why a part could not be opened at all, found out while the service waited."""
        self._container = container
        self._on_failure = on_failure or partial(signal.raise_signal, signal.SIGTERM)
        self._retry_policy = retry_policy
        self._log = structlog.get_logger()

    async def __aenter__(self) -> None:
        """Open the parts.

        Raises:
            Unusable: a configured part cannot be used.
        """
        self._first_result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._open = False
        self._task = asyncio.create_task(self._run())  # enters and exits all parts, as task groups require
        try:
            await self._first_result
        except BaseException:
            await self._end()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._end()
        self._log.info("stopped")

    async def _end(self) -> None:
        self._stop.set()
        if not self._open:
            self._task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                for part in self._container.parts():
                    if isinstance(part, AbstractAsyncContextManager):
                        await self._enter(part, stack)
                self._open, self.waiting = True, False
                self._log.info("started", version=VERSION, **_configuration(self._container.settings()))
                if not self._first_result.done():
                    self._first_result.set_result(None)
                await self._stop.wait()
        except Exception as error:
            if self.waiting:
                self._give_up(error)
            elif not self._first_result.done():
                self._first_result.set_exception(error)
            else:
                raise
        finally:
            self._first_result.cancel()  # of a start during which a part was cancelled: it would wait for ever

    async def _enter(self, part: AbstractAsyncContextManager[Any], stack: AsyncExitStack) -> None:
        failures = 0
        while True:
            try:
                await part.__aenter__()
            except TemporarilyUnusable as unusable:
                failures += 1
                self._wait_because(unusable)
            else:
                stack.push_async_exit(partial(_close, part, self._container.shutdown()))
                return
            await asyncio.sleep(self._retry_policy.delay(failures).total_seconds())

    def _wait_because(self, unusable: TemporarilyUnusable) -> None:
        self.waiting = True
        self._container.store_watch().note_failure(HistoryUnavailable(explanation=str(unusable)))
        if not self._first_result.done():
            self._first_result.set_result(None)

    def _give_up(self, error: Exception) -> None:
        self.failure = error
        if isinstance(error, Unusable):
            self._log.error("cannot start", detail=str(error))
        else:
            self._log.error("cannot start", exc_info=error)
        self._on_failure()


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
        **({"database_host": settings.database_host} if settings.database_host else {}),
        "memory": settings.memory_backend,
        **({"memory_host": settings.memory_host} if settings.memory_host else {}),
        "python": platform.python_version(),
        **LIBRARIES,
    }
