"""Without authentication, plain uvicorn on all addresses serves this machine only."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.harness.commands import run
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import service_process

UVICORN = ("-m", "uvicorn", "entrypoints.asgi:app", "--host", "0.0.0.0", "--port", "0")
HELLO = {"user_id": "user123", "message": "Hello"}

REFUSED = (
    {"Host": "evil.example"},
    {"Host": "evil.example:8000"},
    {"Host": "localhost.evil.example"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Host": "localhost"},
    {"Forwarded": "for=127.0.0.1"},
)
"""By a page of another site whose name leads to this machine (DNS rebinding), or by way of a proxy."""


async def test_plain_uvicorn_on_all_addresses_serves_only_direct_requests(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as upstream,
        service_process(directory=tmp_path, command=UVICORN, OPENAI_BASE_URL=upstream.base_url) as service,
        httpx2.AsyncClient(base_url=f"http://localhost:{urlsplit(service.url).port}") as client,
    ):
        served = await client.post("/api/chat/simple", json=HELLO)
        refused = [await client.post("/api/chat/simple", json=HELLO, headers=headers) for headers in REFUSED]
        probed = await client.get("/livez", headers=REFUSED[0])

    assert served.status_code == 200
    assert [(response.status_code, response.json()["code"]) for response in refused] == [
        (403, "auth_not_configured")
    ] * len(REFUSED)
    assert probed.status_code == 403
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("mode", ["auto", "none"])
async def test_the_service_does_not_start_on_all_addresses(tmp_path: Path, mode: str) -> None:
    status, _, errors = await run(
        *(sys.executable, "-m", "entrypoints.cli", "serve"),
        directory=tmp_path,
        HOST="0.0.0.0",
        AUTH_MODE=mode,
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
    )

    assert status == 3
    assert "there is no authentication" in errors
