"""Daemon threads: results, errors, cancelled callers, and the pool's limit."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future

import pytest

from adapters.daemon_threads import DaemonThreadPool, run_in_daemon_thread, wait_for


async def test_a_function_runs_in_a_daemon_thread_and_its_result_is_returned() -> None:
    thread = await run_in_daemon_thread(threading.current_thread, name="probe")

    assert (True, "probe") == (thread.daemon, thread.name)


async def test_an_exception_of_the_function_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await run_in_daemon_thread(lambda: 1 // 0, name="probe")


async def test_the_thread_of_a_cancelled_caller_keeps_running() -> None:
    started, proceed, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        proceed.wait()
        finished.set()

    caller = asyncio.create_task(run_in_daemon_thread(work, name="probe"))
    while not started.is_set():
        await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    proceed.set()

    assert await asyncio.to_thread(finished.wait, 10)


async def test_waiting_for_a_cancelled_future_raises() -> None:
    future: Future[None] = Future()
    future.cancel()
    with pytest.raises(CancelledError):
        await wait_for(future)


def test_a_pool_reuses_idle_threads_and_queues_calls_beyond_its_limit() -> None:
    pool, barrier = DaemonThreadPool(max_threads=2, name="probe"), threading.Barrier(2)

    def work() -> str:
        barrier.wait(10)
        return threading.current_thread().name

    futures = [pool.submit(work) for _ in range(6)]
    names = [future.result(10) for future in futures]
    pool.stop()

    assert {"probe-1", "probe-2"} == set(names)


def test_a_stopped_pool_finishes_queued_calls() -> None:
    pool = DaemonThreadPool(max_threads=1, name="probe")
    futures = [pool.submit(lambda: "done") for _ in range(3)]
    pool.stop()

    assert ["done"] * 3 == [future.result(10) for future in futures]
