"""A worker process, as its supervisor sees it."""

import asyncio
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from entrypoints.settings import Settings
from entrypoints.signals import send_signal
from entrypoints.supervisor import WorkerExit

_PROGRAM: Final = "import sys; sys.path.append(sys.argv[1]); from entrypoints.cli.worker import main; main()"
"""Finds this package wherever the worker runs, and, with the option -P, nothing in the working directory."""

LISTENING: Final = "listening"
ALIVE: Final = "alive"
REFUSAL: Final = "unusable"
"""First words of a worker's reports, which are lines. A sentence for the operator follows the last one."""

_SILENT: Final = "silent"
"""In the place of a report that did not come."""


class WorkerProcess:
    """A process of its own, connected to this one by a socket.

    It receives the settings through that socket, so that secrets are in no file and on no command line, and all workers
    have the same settings, also when one is started again later. It reports through it, and drains when it is closed,
    i.e. if this process is killed. It has a session of its own, so that signals of the terminal, e.g. Ctrl-C, reach the
    supervisor only.

    From the moment that it listens it sends a heartbeat every second. If none has arrived for `heartbeat_timeout`
    seconds, its event loop hangs, and it is killed: it would accept no connection, but its clients would wait.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        heartbeat_timeout: float,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._heartbeat_timeout = heartbeat_timeout

    @classmethod
    async def start(cls, settings: Settings, listener: socket.socket, *, heartbeat_timeout: float = 30) -> Self:
        """Start a worker that serves on `listener`.

        Raises:
            OSError: the system has no resources left for it.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[1])),
                    *(str(listener.fileno()), str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(listener.fileno(), theirs.fileno()),
                    start_new_session=True,
                )
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        writer.write(pickle.dumps(settings))
        return cls(process, reader, writer, heartbeat_timeout)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def exited(self, on_listening: Callable[[], None]) -> WorkerExit:
        sentence = reason = ""
        timeout = None  # a migration may take any time
        with suppress(OSError):  # it ended without having read its settings
            while line := await self._next_report(timeout):
                report, _, detail = line.strip().partition(" ")
                if report == LISTENING:
                    timeout = self._heartbeat_timeout
                    on_listening()
                elif report == REFUSAL:
                    sentence = detail
                elif report == _SILENT:
                    timeout, reason = None, f"no sign of life for {self._heartbeat_timeout:g} seconds"
                    self.send_signal(signal.SIGKILL)
        status = await self._process.wait()
        self._writer.close()
        return WorkerExit(self.pid, status, sentence, reason)

    async def _next_report(self, wait: float | None) -> str:
        """Return the next report, or that there was none for so many seconds; an empty text at the end."""
        # The second time is for reports that arrived while this process itself was paused.
        for seconds in (wait, 1):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return (await self._reader.readline()).decode()
        return _SILENT

    def send_signal(self, number: signal.Signals) -> None:
        send_signal(self._process, number)
