"""Services forked from a process that has imported everything; see tests/harness/apps/forking.py."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.exchange import PATIENCE
from tests.harness.servers import ROOT, clean_environment


@dataclass
class Fork:
    """A forked service. `Forks.service` waits for its exit unless the test has done so."""

    forks: "Forks"
    pid: int
    printed: Path
    url: str = ""
    status: int | None = None

    async def output(self) -> str:
        """The output so far, stdout and stderr together."""
        return await asyncio.to_thread(self.printed.read_text)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait for the exit; kill the service if it hangs. Return the exit status, or a negative signal number."""
        if self.status is None:
            waiting = asyncio.ensure_future(self.forks.order({"wait": self.pid}))
            _, hangs = await asyncio.wait([waiting], timeout=PATIENCE)
            if hangs:
                self.signal(signal.SIGKILL)
            self.status = await waiting
        return self.status


class Forks:
    """The process that has imported everything, and forks on request."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._started = 0

    async def order(self, order: dict[str, Any]) -> int:
        return await asyncio.to_thread(self._order, order)

    def _order(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @asynccontextmanager
    async def service(
        self, directory: Path, module: str = "entrypoints.cli.main", argument: str = "serve", **environment: str
    ) -> AsyncIterator[Fork]:
        """Start a service with its data in `directory`, wait until it listens, and kill it on leaving."""
        fork = await self._fork(directory, module, [argument], environment)
        try:
            fork.url = await asyncio.to_thread(_address, fork.printed)
            yield fork
        finally:
            if fork.status is None:
                with suppress(ProcessLookupError):
                    fork.signal(signal.SIGKILL)
                await fork.wait()

    async def run(self, directory: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run `smart-chatbot` until it exits; return its exit status and output."""
        fork = await self._fork(directory, "entrypoints.cli.main", arguments, environment)
        return await fork.wait(), await fork.output()

    async def _fork(
        self, directory: Path, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> Fork:
        self._started += 1
        printed = directory / f"output-{self._started}.txt"
        order = {
            "module": module,
            "arguments": arguments,
            "directory": str(directory),
            "output": str(printed),
            "environment": clean_environment(**{"PORT": "0", **environment}),
        }
        return Fork(self, await self.order(order), printed)


def _address(printed: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if printed.exists() and (found := re.search(r"listens on (http://\S+)", printed.read_text())):
            return found[1]
        time.sleep(0.01)
    raise AssertionError("the service did not start: " + printed.read_text())


@contextmanager
def imported_once() -> Iterator[Forks]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.apps.forking"],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # closes its standard input, which makes it exit
        yield Forks(process)
