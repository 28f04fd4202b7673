"""The adapter of docs/adapters.md passes its contract suite, and serves."""

import asyncio
import importlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from domain.conversation import UserId
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


async def test_a_change_waits_until_the_thread_of_a_cancelled_one_has_ended(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(package)
    adapter: Any = importlib.import_module("memory_files").MemoryInFiles(package)
    is_reading, may_go_on = threading.Event(), threading.Event()
    read = adapter._read

    def read_slowly(user_id: UserId) -> Any:
        entries = read(user_id)
        is_reading.set()
        may_go_on.wait(10)
        return entries

    adapter._read = read_slowly
    cancelled = asyncio.create_task(adapter.store(UserId("ada"), "Likes tea.", 0.5))
    await asyncio.to_thread(is_reading.wait, 10)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    adapter._read = read
    later = asyncio.create_task(adapter.store(UserId("ada"), "Likes coffee.", 0.5))
    done, _ = await asyncio.wait([later], timeout=0.5)
    may_go_on.set()
    await later
    page = await adapter.page(UserId("ada"), 10, None)

    assert not done
    assert {"Likes tea.", "Likes coffee."} == {memory.fact for memory in page.items}


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
