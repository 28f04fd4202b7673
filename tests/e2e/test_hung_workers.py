"""Workers that hang or have just ended, as their supervisor sees them."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from entrypoints.listener import listen
from entrypoints.settings import Settings
from entrypoints.supervisor import WorkerExit
from entrypoints.worker_process import WorkerProcess
from tests.harness.exchange import TIMEOUT
from tests.harness.isolated_settings import isolate_settings

HEARTBEAT_TIMEOUT = 4


async def test_a_worker_that_hangs_is_killed_and_one_that_is_idle_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate_settings(monkeypatch, tmp_path)
    settings = Settings(port=0, openai_base_url="http://127.0.0.1:9/v1", data_dir=tmp_path)
    listening = asyncio.Event()
    with listen(settings) as listener:
        worker = await WorkerProcess.start(settings, listener, heartbeat_timeout=HEARTBEAT_TIMEOUT)
        exited = asyncio.create_task(worker.exited(listening.set))
        try:
            async with asyncio.timeout(60):
                await listening.wait()
                await asyncio.wait([exited], timeout=2 * HEARTBEAT_TIMEOUT)
                assert not exited.done()
                worker.send_signal(signal.SIGSTOP)
                killed = WorkerExit(
                    worker.pid, -signal.SIGKILL, reason=f"no sign of life for {HEARTBEAT_TIMEOUT} seconds"
                )
                assert await exited == killed
        finally:
            worker.send_signal(signal.SIGKILL)


async def test_a_signal_to_a_worker_that_has_just_ended_does_not_hide_how_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate_settings(monkeypatch, tmp_path)
    settings = Settings(port=0, openai_base_url="http://127.0.0.1:9/v1", data_dir=tmp_path)
    signalled, collect = threading.Event(), os.waitpid

    def collect_late(pid: int, options: int) -> tuple[int, int]:
        assert signalled.wait(TIMEOUT)
        return collect(pid, options)

    monkeypatch.setattr(os, "waitpid", collect_late)  # as asyncio calls it
    with listen(settings) as listener:
        worker = await WorkerProcess.start(settings, listener)
        exited = asyncio.create_task(worker.exited(lambda: None))
        os.kill(worker.pid, signal.SIGKILL)
        while psutil.Process(worker.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)  # so that the event loop does not notice the end
        worker.send_signal(signal.SIGTERM)
        signalled.set()
        assert await exited == WorkerExit(worker.pid, -signal.SIGKILL)
