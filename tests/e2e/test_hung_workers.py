"""Workers whose event loop hangs, as their supervisor sees them."""

import asyncio
import signal
from pathlib import Path

import pytest

from entrypoints.listener import listen
from entrypoints.settings import Settings
from entrypoints.supervisor import WorkerExit
from entrypoints.worker_process import WorkerProcess
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
