"""The adapter of docs/adapters.md passes its contract suite, and serves."""

import json
import sys
from pathlib import Path

import pytest

from tests.harness.commands import run
from tests.harness.documents import ROOT, files_of
from tests.harness.exchange import client_of
from tests.harness.servers import NOBODY, service_process

FILES = files_of(ROOT / "docs" / "adapters.md")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


async def test_the_documented_adapter_passes_the_contract_suite(package: Path) -> None:
    options = ("-q", "-p", "no:cacheprovider", "-W", "error")
    status, output, errors = await run(
        *(sys.executable, "-m", "pytest", *options, "test_memory_files.py"),
        directory=package,
        PYTHONPATH=str(ROOT),
    )

    assert status == 0, output + errors
    assert " passed" in output
    assert "skipped" not in output


async def test_the_documented_application_uses_the_adapter(package: Path) -> None:
    server = ("-m", "uvicorn", "my_chat:app", "--port", "0")
    async with (
        service_process(directory=package, command=server, OPENAI_BASE_URL=NOBODY, PYTHONPATH=".") as service,
        client_of(service.url) as client,
    ):
        stored = await client.post("/api/memories/user123", json={"fact": "My dog is called Bello."})

    assert stored.status_code == 201
    [entry] = json.loads((package / "data" / "user123.json").read_text())
    assert entry["id"] == stored.json()["id"]
