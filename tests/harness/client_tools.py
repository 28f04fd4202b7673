"""Clients of OpenAI's API that tests run beside the service; `make test-tools` installs them.

Those in Python have an environment of their own, because they bring dependencies that are none of ours.
"""

import platform
from pathlib import Path
from typing import Final

import pytest

from tests.harness.documents import ROOT

_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64"}


def node22() -> Path:
    """Return the program `node` of a recent version, which Debian does not have."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    return _installed(ROOT / ".venv" / "node" / "node_modules" / f"node-linux-{machine}" / "bin" / "node")


def python_clients(program: str) -> Path:
    """Return a program of the environment of the clients, e.g. its `python`."""
    return _installed(ROOT / ".venv" / "clients" / "bin" / program)


def _installed(program: Path) -> Path:
    if not program.exists():
        pytest.fail(f"This test needs {program}: run `make test-tools`.")
    return program
