"""A service whose log pipe or standard output is closed or full."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ROOT, clean_environment


@pytest.mark.row("P15")
async def test_the_service_survives_a_closed_log_pipe(tmp_path: Path) -> None:
    async with _service(tmp_path) as (client, reading):
        os.close(reading)
        assert await _chat(client) == [200, 200, 200]
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.row("P15")
async def test_the_service_drops_and_counts_lines_while_the_log_pipe_is_full(tmp_path: Path) -> None:
    async with _service(tmp_path) as (client, reading):
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
        dropped = [await _chat(client) for _ in range(10)]
        os.set_blocking(reading, False)
        seen = _read_all(reading)
        assert dropped == [[200, 200, 200]] * 10
        await _chat(client)
        seen += _read_all(reading)
        os.close(reading)
    lines = [json.loads(line) for line in seen.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    notices = [line for line in lines if line["event"] == "log lines dropped"]
    logged = [line for line in lines if line["event"] == "request"]
    assert len(notices) == 1
    assert len(logged) < 33 <= len(logged) + notices[0]["count"]


@pytest.mark.row("P15")
@pytest.mark.parametrize("redirection", [">&- 2>&-", ">/dev/full 2>/dev/full", "| true", "2>&1 >/dev/null | true"])
async def test_the_service_serves_and_ends_cleanly_without_standard_streams(tmp_path: Path, redirection: str) -> None:
    status = tmp_path / "status"
    command = f"{{ {sys.executable} -m entrypoints.cli serve & echo $! >pid; wait $!; echo $? >status; }} {redirection}"
    await _assert_serves(tmp_path, command, status)


@pytest.mark.row("P15")
async def test_the_service_starts_although_nothing_reads_its_standard_output(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"-" * 4096)
    os.set_blocking(writing, True)
    command = f"{sys.executable} -m entrypoints.cli serve & echo $! >pid; wait $!; echo $? >status"
    await _assert_serves(tmp_path, command, tmp_path / "status", stdout=writing, stderr=writing)
    os.close(reading)
    os.close(writing)


async def _assert_serves(directory: Path, command: str, status: Path, **streams: Any) -> None:
    """Run the command in a shell, chat with the service, stop it, and check its exit status."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with ScriptedUpstream() as upstream:
        environment = clean_environment(
            PORT=str(port),
            OPENAI_BASE_URL=upstream.base_url,
            OPENAI_MODEL="any",
            DATA_DIR="data",
            HOST="0.0.0.0",
            CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED="true",
        )
        environment["PYTHONPATH"] = str(ROOT)
        shell = await asyncio.create_subprocess_exec("sh", "-c", command, env=environment, cwd=directory, **streams)
        try:
            async with asyncio.timeout(60), httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                while not await _ready(client):
                    assert not status.exists(), status.read_text()
                    await asyncio.sleep(0.05)
                assert await _chat(client) == [200, 200, 200]
            os.kill(int((directory / "pid").read_text()), signal.SIGTERM)
            await asyncio.wait_for(shell.wait(), 30)
        finally:
            if not status.exists():
                os.kill(int((directory / "pid").read_text()), signal.SIGKILL)
    assert status.read_text() == "0\n"


async def _ready(client: httpx2.AsyncClient) -> bool:
    with suppress(httpx2.TransportError):
        return (await client.get("/readyz")).status_code == 200
    return False


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[tuple[httpx2.AsyncClient, int]]:
    """Start a service that logs to a pipe; yield a client and the pipe's reading end."""
    reading, writing = os.pipe()
    async with ScriptedUpstream() as upstream:
        environment = clean_environment(
            PORT="0", OPENAI_BASE_URL=upstream.base_url, OPENAI_MODEL="any", DATA_DIR=str(directory)
        )
        service = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "entrypoints.cli", "serve",
            env=environment, stdout=asyncio.subprocess.PIPE, stderr=writing,
        )  # fmt: skip
        os.close(writing)
        try:
            assert service.stdout is not None
            banner = (await asyncio.wait_for(service.stdout.readline(), 60)).decode()
            async with httpx2.AsyncClient(base_url=banner.split()[-1], timeout=30) as client:
                yield client, reading
        finally:
            service.kill()
            await service.wait()


async def _chat(client: httpx2.AsyncClient) -> list[int]:
    """Send three messages at a time and return the statuses."""
    body = {"user_id": "user123", "message": "Hello"}
    replies = await asyncio.gather(*(client.post("/api/chat/simple", json=body) for _ in range(3)))
    return [reply.status_code for reply in replies]


def _read_all(reading: int) -> bytes:
    seen = b""
    with suppress(BlockingIOError):
        while chunk := os.read(reading, 65536):
            seen += chunk
    return seen
