"""The Caddy web server, as Debian packages it, in a process of its own."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from tests.harness.exchange import TIMEOUT


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def caddy(configuration: str, site: str, directory: Path, **environment: str) -> AsyncIterator[None]:
    """Run Caddy with a Caddyfile of this text, which serves `site`, and wait until it accepts connections.

    It writes into `directory` only, its log into `caddy.log` there.
    """
    file, log_file = directory / "Caddyfile", directory / "caddy.log"
    file.write_text(configuration)
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("caddy", "run", "--config", str(file), "--adapter", "caddyfile"),
            env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory), **environment},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
    try:
        async with asyncio.timeout(TIMEOUT), httpx2.AsyncClient() as client:
            while not await _accepts(client, site):
                assert process.returncode is None, log_file.read_text()
                await asyncio.sleep(0.05)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _accepts(client: httpx2.AsyncClient, site: str) -> bool:
    try:
        await client.get(site)
    except httpx2.TransportError:
        return False
    return True
