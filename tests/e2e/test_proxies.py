"""The configurations of docs/proxies.md, with real proxies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import pytest

from tests.harness.credentials import ANN, KnownCredentials, authentication, bearer
from tests.harness.documents import ROOT
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.proxies import PROXIES, proxy
from tests.harness.servers import running_service

HELLO = {"user_id": "ann", "message": "Hello"}
WAIT = 20
"""Seconds within which something that happens at once has to happen on a busy machine."""


@dataclass
class Proxied:
    """A service behind a proxy. `client` talks to the proxy. The model waits before each delta until it is let go."""

    client: httpx2.AsyncClient
    llm: ScriptedLLM
    credentials: KnownCredentials
    _permits: anyio.Semaphore

    def let_go(self, deltas: int = 1) -> None:
        for _ in range(deltas):
            self._permits.release()

    async def until_the_model_is_stopped(self) -> None:
        with anyio.fail_after(WAIT):
            while self.llm.open:
                await anyio.sleep(0.02)


@asynccontextmanager
async def proxied(name: str, directory: Path, script: ScriptedReply) -> AsyncIterator[Proxied]:
    permits, llm, credentials = anyio.Semaphore(0), ScriptedLLM(script), KnownCredentials()

    async def gate(step: str) -> None:
        if step == "texts":
            await permits.acquire()

    overrides = {"llm": GatedLLM(llm, gate), "authenticate": credentials}
    settings = authentication() | {"trusted_proxies": "127.0.0.1", "comment_interval": 0.5}
    async with (
        running_service(overrides, **settings) as service,
        proxy(name, service.url, directory) as url,
        httpx2.AsyncClient(base_url=url, headers=bearer(ANN), timeout=WAIT) as client,
    ):
        yield Proxied(client, llm, credentials, permits)


@pytest.mark.parametrize("name", PROXIES)
async def test_every_event_arrives_before_the_next_one_is_generated(name: str, tmp_path: Path) -> None:
    received = []
    async with proxied(name, tmp_path, ScriptedReply()) as service:
        service.let_go()
        async with service.client.stream("POST", "/api/chat", json=HELLO) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    received.append(line)
                    service.let_go()

    assert (len(received), received[-1]) == (5, 'data: {"content": "", "done": true}')


@pytest.mark.parametrize("name", PROXIES)
async def test_leaving_a_stream_stops_the_model(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path, ScriptedReply(hangs=True)) as service:
        service.let_go()
        async with service.client.stream("POST", "/api/chat", json=HELLO) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    break
        await service.until_the_model_is_stopped()
        [turn] = (await service.client.get("/api/chat/history/ann")).json()["history"]

    assert (turn["status"], turn["reason"]) == ("interrupted", "client_disconnected")


@pytest.mark.parametrize("name", ["nginx", "caddy", "haproxy"])
async def test_leaving_a_simple_request_stops_the_model(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path, ScriptedReply(hangs=True)) as service:
        await leave_simple_request(service)
        await service.until_the_model_is_stopped()


async def test_behind_apache_the_model_does_not_notice_that_a_simple_request_was_left(tmp_path: Path) -> None:
    async with proxied("apache", tmp_path, ScriptedReply()) as service:
        await leave_simple_request(service)
        service.let_go(4)
        await service.until_the_model_is_stopped()
        [turn] = (await service.client.get("/api/chat/history/ann")).json()["history"]

    assert turn["status"] == "completed"


async def leave_simple_request(service: Proxied) -> None:
    """Send a message to `/api/chat/simple`, and leave while the model generates its reply."""
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            await service.client.post("/api/chat/simple", json=HELLO)

        tasks.start_soon(send)
        with anyio.fail_after(WAIT):
            while not service.llm.open:
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("name", PROXIES)
async def test_the_service_learns_the_address_of_the_client(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path, ScriptedReply()) as service:
        response = await service.client.get("/api/chat/history/ann", headers={"X-Forwarded-For": "203.0.113.7"})

    assert response.status_code == 200
    assert service.credentials.addresses == ["203.0.113.7" if name != "caddy" else "127.0.0.1"]


@pytest.mark.parametrize("name", PROXIES)
async def test_a_refusal_reaches_the_client_unchanged(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path, ScriptedReply()) as service:
        response = await service.client.get("/api/chat/history/ann", headers={"Authorization": "Bearer wrong"})

    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response.headers["Content-Type"] == "application/problem+json"


def test_the_time_limits_of_the_configurations_exceed_that_of_a_turn() -> None:
    text = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")

    assert all(f"{directive}310" in text for directive in ("proxy_read_timeout ", "timeout server ", "timeout="))
