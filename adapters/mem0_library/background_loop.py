"""An event loop and threads of its own for a library that blocks."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

MAX_THREADS: Final = 32
"""Steps that run at once, those of calls that nobody waits for any more included."""


class LoopEnded(Exception):
    """The loop was stopped before the work had come to its end."""


class DaemonThreads:
    """A pool of threads that a process does not wait for at its end, as it would for an executor's."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, step: Callable[[], T]) -> "Future[T]":
        """Run `step` on the next free thread. One thread at a time may call this."""
        future: Future[T] = Future()
        self._inbox.put((future, step))
        if not self._idle.acquire(blocking=False) and self._count < MAX_THREADS:
            self._count += 1
            threading.Thread(target=self._main, name=f"mem0-{self._count}", daemon=True).start()
        return future

    def stop(self) -> None:
        """Let every thread end, once it has nothing to do."""
        for _ in range(self._count):
            self._inbox.put(None)

    def _main(self) -> None:
        while job := self._inbox.get():
            future, step = job
            if future.set_running_or_notify_cancel():
                try:
                    result = step()
                except BaseException as error:
                    future.set_exception(error)
                    del error
                else:
                    future.set_result(result)
                    del result
            del job, future, step  # kept until the next one comes, they would keep what people said
            self._idle.release()


class _Loop(asyncio.SelectorEventLoop):
    """What is given to a thread, by `asyncio.to_thread` for one, goes to ours."""

    def __init__(self, threads: DaemonThreads) -> None:
        super().__init__()
        self._daemons = threads

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Arguments]], T], *args: *Arguments
    ) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._daemons.submit(lambda: func(*args)), loop=self)


class OwnLoop:
    """Runs coroutines on a loop in a thread of its own; callers wait on theirs.

    A call that hangs holds up neither the callers' loop nor the end of the process: all threads are daemons.
    """

    def __init__(self) -> None:
        self._threads = DaemonThreads()
        self._loop = _Loop(self._threads)
        self._ended: Future[None] = Future()
        threading.Thread(target=self._main, name="mem0", daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, T], *, to_its_end: bool) -> T:
        """The result of `work`. Where the caller is cancelled, it goes on only if it runs `to_its_end`."""
        callers_loop = asyncio.get_running_loop()
        awaited: asyncio.Future[T] = callers_loop.create_future()
        running = asyncio.run_coroutine_threadsafe(work, self._loop)

        def deliver(done: "Future[T]") -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop has ended, and the caller with it
                callers_loop.call_soon_threadsafe(_settle, awaited, done)

        running.add_done_callback(deliver)
        try:
            return await awaited
        except asyncio.CancelledError:
            if not to_its_end:
                running.cancel()
            raise

    async def stop(self, last: Callable[[], None], *, patience: float) -> None:
        """Give what runs `patience` seconds to end, cancel the rest, call `last` on a thread, and end the loop.

        A thread that hangs in a step, `last` included, is left behind.
        """
        await self.run(self._wind_up(last, patience), to_its_end=True)
        self._threads.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.wrap_future(self._ended)

    def _main(self) -> None:
        self._loop.run_forever()
        self._loop.close()
        self._ended.set_result(None)

    async def _wind_up(self, last: Callable[[], None], patience: float) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        if running:
            _, late = await asyncio.wait(running, timeout=patience)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(last), max(patience, 1))


def _settle(awaited: "asyncio.Future[T]", done: "Future[T]") -> None:
    if awaited.done():  # cancelled; whoever asked is gone, and an error with them
        return
    if done.cancelled():
        awaited.set_exception(LoopEnded())
    elif error := done.exception():
        awaited.set_exception(error)
    else:
        awaited.set_result(done.result())
