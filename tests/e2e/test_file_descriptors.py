"""A service whose clients use up its file descriptors."""

import asyncio
import json
import os
import re
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.harness.exchange import TIMEOUT, client_of
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import NOBODY, ServiceProcess, service_process

LIMIT = 64
LIMITED = ("-c", f"ulimit -n {LIMIT}; exec {sys.executable} -m entrypoints.cli serve")
SECONDS = 3
"""For which all descriptors are in use."""


@pytest.mark.row("P10")
@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
async def test_a_service_without_free_file_descriptors_warns_once_a_second_and_recovers(
    tmp_path: Path, event_loop: str
) -> None:
    async with (
        ScriptedUpstream() as upstream,
        service_process(
            directory=tmp_path,
            python="/bin/bash",
            command=LIMITED,
            OPENAI_BASE_URL=upstream.base_url,
            OPENAI_MODEL="ok",
            EVENT_LOOP=event_loop,
        ) as service,
    ):
        began = time.monotonic()
        with ExitStack() as stack:
            address = urlsplit(service.url)
            for _ in range(2 * LIMIT):
                stack.enter_context(socket.create_connection((address.hostname, address.port)))
            before = _cpu_seconds(service)
            await asyncio.sleep(SECONDS)
            used = _cpu_seconds(service) - before
        async with client_of(service.url) as client:
            replied = await _chat_when_possible(client)
        seconds = time.monotonic() - began
    logged = [json.loads(line) for line in service.output if line.startswith("{")]
    warnings = [line for line in logged if line["event"] == "out of file descriptors"]
    assert replied == 200
    assert used < SECONDS / 2
    assert 1 <= len(warnings) <= seconds + 1
    assert {line["limit"] for line in warnings} == {LIMIT}
    assert {line["level"] for line in logged} <= {"info", "warning"}
    assert not [line for line in logged if "exception" in line]


async def test_a_service_may_open_as_many_files_as_the_system_permits(tmp_path: Path) -> None:
    command = ("-c", f"ulimit -Sn 256; ulimit -Hn 4096; exec {sys.executable} -m entrypoints.cli serve")
    async with service_process(
        directory=tmp_path, python="/bin/bash", command=command, OPENAI_BASE_URL=NOBODY
    ) as service:
        limits = Path(f"/proc/{service.process.pid}/limits").read_text()
    assert re.search(r"Max open files +4096 +4096", limits)


def _cpu_seconds(service: ServiceProcess) -> float:
    """Return the processor time that the service has used so far."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _chat_when_possible(client: httpx2.AsyncClient) -> int:
    """Send a message until a connection is accepted; return the status of the reply."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                body = {"user_id": "user123", "message": "Hello?"}
                return (await client.post("/api/chat/simple", json=body)).status_code
            except httpx2.TransportError:  # the closed connections have not been noticed yet
                await asyncio.sleep(0.1)
