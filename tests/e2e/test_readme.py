"""Documented commands and clients work as documented."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.commands import run
from tests.harness.documents import Block, blocks
from tests.harness.exchange import client_of, history
from tests.harness.forks import Forks
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import NOBODY, ROOT

PORT = "8000"
"""Port of the service in all documented commands. If it is in use, the tests replace it in the commands."""

CURL_STREAMING = """\
curl -X POST "http://localhost:8000/api/chat" \\
  -H "Content-Type: application/json" \\
  -d '{
    "user_id": "user123",
    "message": "What is the capital of France?"
  }'
"""

CURL_SIMPLE = """\
curl -X POST "http://localhost:8000/api/chat/simple" \\
  -H "Content-Type: application/json" \\
  -d '{
    "user_id": "user123",
    "message": "What is the capital of France?"
  }'
"""

CURL_HEALTH = """\
curl "http://localhost:8000/api/health"
"""

PYTHON_CLIENT = """\
import requests
import json

# Simple chat
response = requests.post(
    "http://localhost:8000/api/chat/simple",
    json={
        "user_id": "user123",
        "message": "Hello, how are you?"
    }
)
print(response.json())

# Streaming chat
response = requests.post(
    "http://localhost:8000/api/chat",
    json={
        "user_id": "user123",
        "message": "Tell me a story"
    },
    stream=True
)

for line in response.iter_lines():
    if line:
        line = line.decode('utf-8')
        if line.startswith('data: '):
            data = line[6:]  # Remove 'data: ' prefix
            if data == '[DONE]':
                break
            try:
                chunk = json.loads(data)
                print(chunk['content'], end='', flush=True)
            except json.JSONDecodeError:
                pass
"""

GUIDES = ("memory", "operations", "repeating-requests")
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES)]
MARKED = [block for document in DOCUMENTS for block in blocks(document) if block.marker == "run"]
"""The code blocks of the README and of guides marked `<!-- run -->`."""


async def test_the_documented_curl_streams_a_reply(documented_service: str, tmp_path: Path) -> None:
    stream = ChatStream.of((await _run("bash", CURL_STREAMING, documented_service, tmp_path)).encode())
    assert [(number, text) for number, text in zip(stream.numbers, stream.data, strict=True)] == [
        (1, '{"content": "Hello", "done": false}'),
        (2, '{"content": ", ", "done": false}'),
        (3, '{"content": "world", "done": false}'),
        (4, '{"content": "!", "done": false}'),
        (5, '{"content": "", "done": true}'),
        (6, "[DONE]"),
    ]


async def test_the_documented_curl_returns_the_whole_reply(documented_service: str, tmp_path: Path) -> None:
    reply = await _run("bash", CURL_SIMPLE, documented_service, tmp_path)
    assert re.fullmatch(
        r'\{"user_id":"user123","message":"What is the capital of France\?","response":"Hello, world!",'
        r'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"\}',
        reply,
    )


async def test_the_documented_curl_reports_health(documented_service: str, tmp_path: Path) -> None:
    assert '"status":"ok"' in await _run("bash", CURL_HEALTH, documented_service, tmp_path)


async def test_the_documented_python_client_prints_both_replies(documented_service: str, tmp_path: Path) -> None:
    whole, streamed = (await _run("python", PYTHON_CLIENT, documented_service, tmp_path)).split("\n")
    assert "'response': 'Hello, world!'" in whole
    assert streamed == "Hello, world!"


def test_every_run_marker_precedes_a_code_block() -> None:
    assert {block.language for block in MARKED} == {"bash", "python"}
    assert len(MARKED) == sum(document.read_text().count("<!-- run -->") for document in DOCUMENTS)


@pytest.mark.parametrize("block", MARKED, ids=str)
async def test_marked_code_blocks_run(block: Block, documented_service: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_BASE_URL={NOBODY}\n")  # of commands that read the settings
    output = await _run(block.language, block.text, documented_service, tmp_path)
    assert output
    assert "urn:problem-type" not in output


async def test_history_survives_a_restart_and_is_gone_after_deletion(forks: Forks, tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        environment = {"OPENAI_BASE_URL": upstream.base_url}
        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            await client.post("/api/chat/simple", json={"user_id": "user123", "message": "Hello?"})
        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            kept = await history(client, "user123")
            deleted = await client.delete("/api/chat/history/user123")
        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            left = await history(client, "user123")
    assert [(turn["user_message"], turn["assistant_response"]) for turn in kept] == [("Hello?", "Hello, world!")]
    assert deleted.json() == {"user_id": "user123", "deleted": 1}
    assert left == []


@pytest.fixture
async def documented_service(forks: Forks, tmp_path: Path) -> AsyncIterator[str]:
    """Run a service, and return its port: the documented one if that is free."""
    async with ScriptedUpstream() as upstream:
        port = PORT if await _is_free(PORT) else "0"
        async with forks.service(tmp_path, OPENAI_BASE_URL=upstream.base_url, PORT=port) as service:
            yield str(urlsplit(service.url).port)


async def _is_free(port: str) -> bool:
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", int(port))
    except OSError:
        return False
    server.close()
    await server.wait_closed()
    return True


async def _run(language: str, text: str, port: str, directory: Path) -> str:
    """Run a documented command in `directory`, and return its output."""
    interpreter = {"bash": ("bash", "-euo", "pipefail", "-c"), "python": (sys.executable, "-c")}[language]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ported = text.replace(f"localhost:{PORT}", f"localhost:{port}").replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{port}")
    status, output, errors = await run(*interpreter, ported, directory=directory, PATH=path)
    assert status == 0, errors
    return output
