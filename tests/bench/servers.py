"""Starts the measured servers, each a process with one worker, and reads the CPU time and memory they use."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.harness.servers import clean_environment

_UVICORN = ("-m", "uvicorn", "--port", "0", "--no-access-log")


@dataclass(frozen=True)
class Process:
    """A running process."""

    process: psutil.Process

    def cpu(self) -> float:
        """Return the CPU time used so far, in seconds."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        return int(self.process.memory_info().rss)


@dataclass(frozen=True)
class Server(Process):
    """A process that listens on `port`."""

    port: int


@contextmanager
def upstream(tokens: int, pause_ms: float) -> Iterator[str]:
    """Start the fake of the model's service and yield its base URL."""
    with _started(("-m", "tests.bench.upstream", str(tokens), str(pause_ms)), r"^(\d+)$", {}) as server:
        yield f"http://127.0.0.1:{server.port}/v1"


@contextmanager
def service(
    base_url: str,
    data_dir: Path | None = None,
    module: Sequence[str] = ("entrypoints.cli", "serve"),
    **settings: str,
) -> Iterator[Server]:
    """Start the service with logs and history. By default it has no other settings and a temporary data_dir."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"OPENAI_BASE_URL": base_url, "DATA_DIR": str(data_dir or folder), "PORT": "0", **settings}
        with _started(("-m", *module), r"listens on http://\S+:(\d+)", environment) as server:
            yield server


@contextmanager
def baseline(name: str, base_url: str) -> Iterator[Server]:
    """Start the baseline `plain` or `floor`."""
    command = (*_UVICORN, f"tests.bench.{name}:app")
    with _started(command, r"running on http://\S+:(\d+)", {"OPENAI_BASE_URL": base_url}) as server:
        yield server


@contextmanager
def _started(command: Sequence[str], ready: str, environment: dict[str, str]) -> Iterator[Server]:
    with running(command, ready, environment) as (process, found):
        yield Server(process.process, int(found[1]))


@contextmanager
def running(command: Sequence[str], ready: str, environment: dict[str, str]) -> Iterator[tuple[Process, re.Match[str]]]:
    """Run Python with these arguments, and yield when the output matches `ready`."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, *command], stdout=sink, stderr=sink, env=clean_environment(**environment)
            )
        try:
            found = _found(process, output, ready)
            yield Process(psutil.Process(process.pid)), found
        finally:
            process.terminate()
            process.wait()


def _found(process: "subprocess.Popen[bytes]", output: Path, ready: str) -> re.Match[str]:
    while process.poll() is None:
        if found := re.search(ready, output.read_text(), re.MULTILINE):
            return found
        time.sleep(0.02)
    raise RuntimeError(output.read_text())
