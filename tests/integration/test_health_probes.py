"""Health checks by HEAD, as `wget --spider`, `curl -I` and many orchestrators request them, and without API keys."""

import asyncio
import json
from functools import partial

import psycopg
import pytest

from domain.api_key import text_of
from tests.harness.chat import eventually
from tests.harness.credentials import authentication
from tests.harness.fakes import ScriptedLLM
from tests.harness.postgres import Postgres
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

PATHS = ("/livez", "/readyz", "/api/health", "/api/health/detailed")


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_like_get_without_a_body(path: str) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        got, head = [await service.client.request(method, path) for method in ("GET", "HEAD")]

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers.keys() == got.headers.keys()
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_head_reports_a_service_that_is_not_ready() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.container.turn_runner().drain(0)
        statuses = [(await service.client.head(path)).status_code for path in ("/livez", "/readyz")]

    assert statuses == [200, 503]


async def test_with_authentication_head_needs_the_same_credentials_as_get() -> None:
    async with running_service({"llm": ScriptedLLM()}, **authentication()) as service:
        statuses = [(await service.client.head(path)).status_code for path in PATHS]

    assert statuses == [200, 200, 200, 401]


@pytest.mark.parametrize(
    ("change", "undone", "cause"),
    [
        ("LOCK TABLE api_keys", "SELECT 1", "it waited too long for a lock"),
        ("ALTER TABLE api_keys RENAME TO old; COMMIT", "ALTER TABLE old RENAME TO api_keys", "UndefinedTable"),
    ],
    ids=["locked", "not there"],
)
async def test_a_service_whose_keys_cannot_be_read_is_not_ready_and_says_why(
    postgres: Postgres, capsys: pytest.CaptureFixture[str], change: str, undone: str, cause: str
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    settings = {"history_backend": "sql", "database_url": url, **authentication("api_key")}
    async with (
        await psycopg.AsyncConnection.connect(url) as other,
        running_service({"llm": ScriptedLLM()}, {"key_watch": {"interval": 0.1}}, **settings) as service,
    ):

        async def is_ready(expected: int) -> bool:
            return (await service.client.get("/readyz")).status_code == expected

        async def status_with_a_key() -> int:
            headers = {"X-API-Key": text_of("0" * 16, "0" * 64)}
            return (await service.client.get("/api/health/detailed", headers=headers)).status_code

        assert (await is_ready(200), await status_with_a_key()) == (True, 401)
        await other.execute(change)
        await eventually(partial(is_ready, 503))
        assert await status_with_a_key() == 503
        await other.rollback()
        await other.execute(undone)
        await other.commit()
        await eventually(partial(is_ready, 200))
        assert await status_with_a_key() == 401
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "API keys " in line]
    assert [line["event"] for line in logged] == ["API keys unavailable", "API keys available again"]
    assert cause in logged[0]["detail"]


async def test_the_allow_header_names_every_method_of_a_path() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        allowed = {
            path: (await service.client.put(path)).headers["Allow"]
            for path in ("/livez", "/api/memories/user123", "/api/chat")
        }

    assert allowed == {"/livez": "GET, HEAD", "/api/memories/user123": "DELETE, GET, POST", "/api/chat": "POST"}
