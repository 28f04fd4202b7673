"""A revoked key is refused with the next request, at every worker and on connections that are already open."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2

from tests.harness.commands import run
from tests.harness.exchange import TIMEOUT, client_of
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ROOT, service_process

HELLO = {"user_id": "user123", "message": "Hello?"}


async def test_a_revoked_key_is_refused_with_the_next_request_at_every_worker(
    postgres: Postgres, tmp_path: Path
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    settings = {"AUTH_MODE": "api_key", "DATABASE_URL": database}
    async with (
        ScriptedUpstream() as upstream,
        service_process(
            *("--workers", "2"),
            directory=tmp_path,
            AUTH_MODE="api_key",
            DATABASE_URL=database,
            OPENAI_BASE_URL=upstream.base_url,
        ) as service,
        one_client_per_worker(service.url, 2) as clients,
    ):
        old, new = [await key(tmp_path, **settings) for _ in range(2)]
        assert [await status(client, each) for client in clients for each in (old, new)] == [200] * 4

        assert await keys(tmp_path, "revoke", old[3:19], **settings) == f"Revoked key {old[3:19]}.\n"

        assert [await status(client, each) for client in clients for each in (old, new)] == [401, 200] * 2


@asynccontextmanager
async def one_client_per_worker(url: str, count: int) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """Open connections until there is one to each worker. A process begins the ids of its requests in its own way."""
    clients: dict[str, httpx2.AsyncClient] = {}
    async with AsyncExitStack() as stack, asyncio.timeout(TIMEOUT):
        while len(clients) < count:
            client = await stack.enter_async_context(client_of(url))
            clients.setdefault((await client.get("/livez")).headers["x-request-id"][:16], client)
        yield list(clients.values())


async def status(client: httpx2.AsyncClient, credential: str) -> int:
    response = await client.post("/api/chat/simple", json=HELLO, headers={"Authorization": f"Bearer {credential}"})
    return response.status_code


async def key(directory: Path, **settings: str) -> str:
    return (await keys(directory, "create", "--role", "service", **settings)).strip()


async def keys(directory: Path, *arguments: str, **settings: str) -> str:
    """Run `smart-chatbot keys` and return its standard output."""
    command = (sys.executable, "-m", "entrypoints.cli", "keys", *arguments)
    exit_status, output, errors = await run(*command, directory=directory, PYTHONPATH=str(ROOT), **settings)
    assert exit_status == 0, errors
    return output
