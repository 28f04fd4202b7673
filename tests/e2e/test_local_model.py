"""The embedded model is killed while the service runs."""

import asyncio
from pathlib import Path

import psutil
import pytest

from tests.harness.exchange import client_of
from tests.harness.servers import service_process

RESTART_TIMEOUT = 30
"""Seconds within which it must have been started again. It takes two, and more on a loaded machine."""

REPLY_TIMEOUT = 120

MESSAGE = {"user_id": "user123", "message": "What is the capital of France?"}


@pytest.mark.row("U29")
async def test_an_embedded_model_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with (
        service_process("--local", directory=tmp_path, OPENAI_TEMPERATURE="0") as service,
        client_of(service.url) as client,
    ):
        (model,) = psutil.Process(service.process.pid).children()
        model.kill()
        await asyncio.to_thread(model.wait)
        meanwhile = await client.post("/api/chat/simple", json=MESSAGE | {"user_id": "user456"}, timeout=REPLY_TIMEOUT)
        async with asyncio.timeout(RESTART_TIMEOUT):
            while not any("embedded model restarted" in line for line in service.output):
                await asyncio.sleep(0.05)
        recovered = await client.post("/api/chat/simple", json=MESSAGE, timeout=REPLY_TIMEOUT)
    if meanwhile.status_code != 200:  # on a fast machine, the second attempt finds the model running again
        assert meanwhile.status_code == 502
        assert meanwhile.json()["code"] in {"upstream_unreachable", "upstream_error"}  # the latter while it loads
        assert meanwhile.json()["retryable"]
    assert "Paris" in recovered.json()["response"]
    output = "".join(service.output)
    assert output.count('"event": "embedded model died"') == 1
    assert "Traceback" not in output
