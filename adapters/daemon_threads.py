"""Threads for blocking calls that may hang: unlike an executor's, they do not delay the end of the process.

The interpreter joins the threads of every `ThreadPoolExecutor` at exit, the event loop's default one included.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(function: Callable[[], T], *, name: str) -> T:
    """Run a blocking function in a new thread. If the caller is cancelled, the thread keeps running."""
    future: Future[T] = Future()
    threading.Thread(target=_complete, args=[future, function], name=name, daemon=True).start()
    return await wait_for(future)


async def wait_for(future: "Future[T]") -> T:
    """Wait for a future that another thread completes. If the caller is cancelled, the future is not.

    Raises:
        concurrent.futures.CancelledError: the future was cancelled.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def notify(_: object) -> None:
        with suppress(RuntimeError):  # the caller's loop is closed
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(notify)
    await waiter
    return future.result()


class DaemonThreadPool:
    """Up to `max_threads` daemon threads, started on demand."""

    def __init__(self, *, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the next free thread. Not thread-safe: call it from one thread only."""
        future: Future[T] = Future()
        self._inbox.put((future, function))
        if not self._idle.acquire(blocking=False) and self._count < self._max_threads:
            self._count += 1
            threading.Thread(target=self._main, name=f"{self._name}-{self._count}", daemon=True).start()
        return future

    def stop(self) -> None:
        """Let each thread exit when it has nothing left to do. Does not wait for them."""
        for _ in range(self._count):
            self._inbox.put(None)

    def _main(self) -> None:
        while job := self._inbox.get():
            _complete(*job)
            del job  # an idle thread must not keep users' text in memory
            self._idle.release()


def _complete(future: "Future[T]", function: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
            del future, function  # a reference cycle through the traceback would keep users' text in memory
        else:
            future.set_result(result)
