"""Services forked from a process that has already imported everything; see tests/harness/apps/forking.py."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.exchange import TIMEOUT
from tests.harness.servers import ROOT, clean_environment


@dataclass
class Fork:
    """One forked process. Something must wait for it; `Forks.service` does so if the test has not."""

    forks: "Forks"
    pid: int
    output_file: Path
    url: str = ""
    status: int | None = None

    async def output(self) -> str:
        """Return its output so far, standard output and standard error together."""
        return await asyncio.to_thread(self.output_file.read_text)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait for its exit and return its exit code, negative for a signal. Kills it after `TIMEOUT`."""
        if self.status is None:
            waiting = asyncio.ensure_future(self.forks.send({"wait": self.pid}))
            _, hangs = await asyncio.wait([waiting], timeout=TIMEOUT)
            if hangs:
                self.signal(signal.SIGKILL)
            self.status = await waiting
        return self.status


class Forks:
    """The process that forks."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._started = 0
        self._lock = threading.Lock()

    async def send(self, command: dict[str, Any]) -> int:
        """Send a command to the process and return its result."""
        return await asyncio.to_thread(self._send, command)

    def _send(self, command: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    @asynccontextmanager
    async def service(
        self,
        directory: Path,
        module: str = "entrypoints.cli.main",
        argument: str = "serve",
        **environment: str,
    ) -> AsyncIterator[Fork]:
        """Start a service in `directory` and wait until it listens. Kills it on exit if it is still running."""
        async with self._listening(await self._fork(directory, module, [argument], environment)) as fork:
            yield fork

    @asynccontextmanager
    async def urgent_service(self, directory: Path, **environment: str) -> AsyncIterator[Fork]:
        """Like `service`, but it runs before other processes of the machine: for limits of a second or less."""
        started = await self._fork(directory, "entrypoints.cli.main", ["serve"], environment, urgent=True)
        async with self._listening(started) as fork:
            yield fork

    @asynccontextmanager
    async def _listening(self, fork: Fork) -> AsyncIterator[Fork]:
        try:
            fork.url = await asyncio.to_thread(_address, fork.output_file)
            yield fork
        finally:
            if fork.status is None:
                with suppress(ProcessLookupError):
                    fork.signal(signal.SIGKILL)
                await fork.wait()

    async def run(self, directory: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run `smart-chatbot` to completion and return its exit status and output."""
        fork = await self._fork(directory, "entrypoints.cli.main", arguments, environment)
        return await fork.wait(), await fork.output()

    async def run_urgently(self, directory: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        """Like `run`, but before other processes of the machine, as `urgent_service`."""
        fork = await self._fork(directory, "entrypoints.cli.main", arguments, environment, urgent=True)
        return await fork.wait(), await fork.output()

    async def _fork(
        self,
        directory: Path,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        urgent: bool = False,
    ) -> Fork:
        self._started += 1
        output_file = directory / f"output-{self._started}.txt"
        command = {
            "module": module,
            "arguments": arguments,
            "directory": str(directory),
            "output": str(output_file),
            "urgent": urgent,
            "environment": clean_environment(**{"PORT": "0", **environment}),
        }
        return Fork(self, await self.send(command), output_file)


def _address(output_file: Path) -> str:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if output_file.exists() and (found := re.search(r"listens on (http://\S+)", output_file.read_text())):
            return found[1]
        time.sleep(0.01)
    raise AssertionError("the service did not start: " + output_file.read_text())


@contextmanager
def forking_process() -> Iterator[Forks]:
    """Start the process that forks. Closing its input on exit ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.apps.forking"],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Forks(process)
