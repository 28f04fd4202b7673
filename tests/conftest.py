"""Rules for every test: nothing blocks the event loop, nothing leaves the machine, only marked tests use a server."""

import asyncio
import functools
import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from tests.harness.postgres import Postgres, postgres_server
from tests.harness.rows import RowCoverage
from tests.harness.socket_guard import SocketGuard

E2E = Path(__file__).parent / "e2e"
SERVER_FIXTURES = {"postgres", "postgres_in_tmp_path", "own_server", "forks"}
"""Fixtures that start processes whose sockets this process does not open itself."""
HANGS_AFTER = 240
"""Seconds after which an asynchronous test counts as hanging; less than `timeout` of pyproject.toml."""

settings.register_profile("tests", deadline=None)  # no test asserts how long something takes
settings.load_profile("tests")

_sockets = SocketGuard()
_sockets.install()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RowCoverage())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker("server")


def pytest_collection_finish() -> None:
    """Exempt everything that exists before the first test from the collection of garbage, which is slow otherwise."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _sockets.refused.clear()
    _sockets.unmarked.clear()
    _sockets.servers_allowed = item.get_closest_marker("server") is not None
    yield
    _sockets.servers_allowed = True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    used = SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    if used and item.get_closest_marker("server") is None:
        pytest.fail(f"a test that uses {', '.join(used)} must be marked `server`")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Cancel an asynchronous test that hangs, which shows where. `timeout` of pyproject.toml ends the process."""
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def limited(*args: Any, **kwargs: Any) -> None:
            async with asyncio.timeout(HANGS_AFTER):
                await test(*args, **kwargs)

        pyfuncitem.obj = limited


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A PostgreSQL server for a test that stops it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_in_tmp_path(postgres: Postgres, tmp_path: Path) -> None:
    """Provide an empty database for `tests.harness.postgres.open_database_in(tmp_path)`."""
    postgres.store_url_in(tmp_path)


@pytest.fixture
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the proxies configured in the environment of the test run."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def nothing_leaves_the_machine() -> Iterator[None]:
    yield
    assert _sockets.refused == []


@pytest.fixture(autouse=True)
def only_marked_tests_use_a_server() -> Iterator[None]:
    yield
    assert _sockets.unmarked == []


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx(["domain", "application", "adapters", "entrypoints"]) as blocking:
        blocking.functions["os.path.abspath"].deactivate()  # asks for the working directory; touches no disk
        # Like its own exemption of `sys.stderr`; a pipe is written to only if it takes the text at once.
        blocking.functions["os.write"].can_block_in("entrypoints/standard_streams.py", {"_wrote"})
        # Certificates are read when a client is created, which the service does before its loop runs.
        blocking.functions["os.stat"].can_block_in("httpcore2/_ssl.py", {"default_ssl_context"})
        blocking.functions["io.TextIOWrapper.read"].can_block_in("httpcore2/__init__.py", {"<module>"})
        # The chat page's files are read when an app is created, which the service does before its loop runs.
        for function in ("os.listdir", "os.stat", "io.BufferedReader.read"):
            blocking.functions[function].can_block_in("entrypoints/http/page/files.py", {"_read"})
        yield
