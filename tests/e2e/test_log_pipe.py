"""A service whose log pipe is closed."""

import asyncio
import os
import sys
from pathlib import Path

import httpx2

from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import clean_environment


async def test_the_service_survives_a_closed_log_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    async with ScriptedUpstream() as upstream:
        environment = clean_environment(
            PORT="0", OPENAI_BASE_URL=upstream.base_url, OPENAI_MODEL="any", DATA_DIR=str(tmp_path)
        )
        service = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "entrypoints.cli", "serve",
            env=environment, stdout=asyncio.subprocess.PIPE, stderr=writing,
        )  # fmt: skip
        try:
            assert service.stdout is not None
            banner = (await asyncio.wait_for(service.stdout.readline(), 60)).decode()
            os.close(writing)
            os.close(reading)
            url = banner.split()[-1]
            async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
                body = {"user_id": "user123", "message": "Hello"}
                replies = await asyncio.gather(*(client.post("/api/chat/simple", json=body) for _ in range(3)))
                ready = await client.get("/readyz")
        finally:
            service.kill()
            await service.wait()
    assert [200, 200, 200] == [reply.status_code for reply in replies]
    assert ready.status_code == 200
