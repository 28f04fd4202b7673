"""Starts the service for a test: on the test's event loop, or as a process that can be killed."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
from dependency_injector import providers

from entrypoints.container import Container
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import Settings
from entrypoints.signals import send_signal
from tests.harness.exchange import NO_TLS, TIMEOUT

ROOT = Path(__file__).parents[2]

NOBODY = "http://127.0.0.1:9/v1"
"""A base URL at which nothing listens, for services with a fake model."""

PSEUDONYM_KEY = "without-a-key-a-file-would-be-made"
"""A setting for services that write no files."""

for _lazy_import in ("adapters.llm_openai", "adapters.history_sql", "adapters.sql.sqlite.database"):
    import_module(_lazy_import)  # now, because importing blocks the event loop


@dataclass
class Service:
    """A service that runs on the test's event loop."""

    url: str
    client: httpx2.AsyncClient
    container: Container


@asynccontextmanager
async def running_service(
    overrides: dict[str, Any] | None = None, arguments: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """Start the service with these settings on a real socket, with a free port.

    `overrides` replaces parts of the container, by provider name; `arguments` adds keyword arguments to constructors.
    """
    chosen, container = _wired(overrides, arguments, settings)
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = DrainingServer(create_app(chosen, container), started.set_result)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        while not started.done():
            assert not serving.done(), "the service refused to start"
            await asyncio.sleep(0.01)
        async with httpx2.AsyncClient(base_url=started.result(), timeout=TIMEOUT, verify=NO_TLS) as client:
            yield Service(started.result(), client, container)
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def service_in_process(overrides: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Service]:
    """Start the service without a server: its client calls it directly, and gets whole responses."""
    chosen, container = _wired(overrides, None, settings)
    app, url = create_app(chosen, container), "http://127.0.0.1:8000"
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url=url, timeout=TIMEOUT, verify=NO_TLS) as client,
    ):
        yield Service(url, client, container)


def _wired(
    overrides: dict[str, Any] | None, arguments: dict[str, dict[str, Any]] | None, settings: dict[str, Any]
) -> tuple[Settings, Container]:
    # Isolated from the .env of the machine and, for these settings, from its environment variables.
    chosen = Settings(
        _env_file=None,
        **{
            "history_backend": "in_memory",
            "memory_backend": "in_memory",
            "openai_base_url": NOBODY,
            "log_pseudonym_key": PSEUDONYM_KEY,
            **settings,
        },
    )
    container = Container(settings=chosen)
    for name, part in (overrides or {}).items():
        container.providers[name].override(providers.Object(part))
    for name, keywords in (arguments or {}).items():
        provider = container.providers[name]
        if isinstance(provider, providers.Selector):
            assert provider.selector is not None
            provider = provider.providers[provider.selector()]
        assert isinstance(provider, providers.Singleton)
        provider.add_kwargs(**keywords)
    return chosen, container


@dataclass
class ServiceProcess:
    """A service in a process of its own. `output` holds its output so far, both streams together."""

    process: asyncio.subprocess.Process
    url: str
    output: list[str]

    async def wait(self) -> int:
        return await asyncio.wait_for(self.process.wait(), TIMEOUT)

    def signal(self, number: signal.Signals) -> None:
        send_signal(self.process, number)


@asynccontextmanager
async def service_process(
    *arguments: str,
    directory: Path,
    command: tuple[str, ...] = ("-m", "entrypoints.cli", "serve"),
    python: str | Path = sys.executable,
    **environment: str,
) -> AsyncIterator[ServiceProcess]:
    """Start `smart-chatbot serve` in `directory` on a free port, wait until it listens, and kill it on exit.

    It has a process group of its own, so that its children are killed with it.
    """
    process = await asyncio.create_subprocess_exec(
        python,
        *command,
        *arguments,
        cwd=directory,
        env=clean_environment(**{"PORT": "0", **environment}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    output: list[str] = []
    assert process.stdout is not None
    address = ""
    while not address:
        line = (await asyncio.wait_for(process.stdout.readline(), TIMEOUT)).decode()
        assert line, "the service ended: " + "".join(output)
        output.append(line)
        if match := re.search(r"(?:listens on|running on) (http://\S+)", line):
            address = match[1]
    reading = asyncio.create_task(_collect(process.stdout, output))
    try:
        yield ServiceProcess(process, address, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading


async def _collect(stream: asyncio.StreamReader, output: list[str]) -> None:
    while line := await stream.readline():
        output.append(line.decode())


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without any settings, plus `variables`."""
    settings = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | variables
