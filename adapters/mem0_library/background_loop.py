"""An event loop in a background thread, for a library whose calls block."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar, TypeVarTuple, Unpack

from adapters.daemon_threads import DaemonThreadPool, wait_for

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class LoopStopped(Exception):
    """The loop was stopped before the call had ended."""


class BackgroundLoop:
    """Runs coroutines on an event loop of its own; callers await them on theirs.

    `asyncio.to_thread` in these coroutines uses a pool of `max_threads`, which includes threads whose callers have
    gone. All threads are daemons, so a call that hangs delays neither the caller's loop nor the end of the process.
    """

    def __init__(self, *, max_threads: int = 32) -> None:
        self._threads = DaemonThreadPool(max_threads=max_threads, name="mem0")
        self._loop = _PooledLoop(self._threads)
        self._stopped: Future[None] = Future()
        threading.Thread(target=self._main, name="mem0", daemon=True).start()

    async def run(self, coroutine: Coroutine[Any, Any, T], *, to_completion: bool) -> T:
        """Return the result of `coroutine`. If the caller is cancelled, it is too, unless it runs `to_completion`.

        Raises:
            LoopStopped: `stop` cancelled the coroutine.
        """
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return await wait_for(running)
        except CancelledError:
            raise LoopStopped from None
        except asyncio.CancelledError:
            if not to_completion:
                running.cancel()
            raise

    async def stop(self, finish: Callable[[], None], *, grace: float) -> None:
        """Wait up to `grace` seconds for running calls, cancel the rest, run `finish` in a thread, stop the loop.

        A thread that hangs, be it in `finish`, is abandoned.
        """
        await self.run(self._wind_up(finish, grace), to_completion=True)
        self._threads.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        await wait_for(self._stopped)

    def _main(self) -> None:
        self._loop.run_forever()
        self._loop.close()
        self._stopped.set_result(None)

    async def _wind_up(self, finish: Callable[[], None], grace: float) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        if running:
            _, late = await asyncio.wait(running, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(finish), max(grace, 1))


class _PooledLoop(asyncio.SelectorEventLoop):
    """Sends `run_in_executor`, and with it `asyncio.to_thread`, to a pool of daemon threads."""

    def __init__(self, threads: DaemonThreadPool) -> None:
        super().__init__()
        self._daemon_threads = threads

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Arguments]], T], *args: *Arguments
    ) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._daemon_threads.submit(lambda: func(*args)), loop=self)
