"""What holds for every test: one event loop, nothing blocks it, nothing leaves the machine."""

import ipaddress
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from tests.harness.postgres import Postgres, postgres_server

_refused: list[str] = []


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse connections to anywhere but this machine, whoever opens them."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
        try:
            allowed = ipaddress.ip_address(host).is_loopback
        except ValueError:
            allowed = host == "localhost"
        if not allowed:
            _refused.append(str(host))
            raise PermissionError(f"a test tried to connect to {host}")


sys.addaudithook(_guard)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_leaves_the_machine() -> Iterator[None]:
    _refused.clear()
    yield
    assert _refused == []


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx(["domain", "application", "adapters", "entrypoints"]) as blocking:
        blocking.functions["os.path.abspath"].deactivate()  # asks for the working directory; touches no disk
        # Certificates are read when a client is made, which in the service is before its loop runs.
        blocking.functions["os.stat"].can_block_in("httpcore2/_ssl.py", {"default_ssl_context"})
        yield
