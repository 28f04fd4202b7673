"""Each backend of long-term memory works with configuration alone, and survives kills."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.harness.exchange import Exchange, client_of, follow
from tests.harness.forks import Forks
from tests.harness.mem0_platform import KEY, Mem0Platform
from tests.harness.memory_upstream import MemoryUpstream

DURABLE = ("sql", "mem0", "mem0_platform")
EXTRACTING = ("mem0", "mem0_platform")
BACKENDS = (*DURABLE, "in_memory", "none")

CYCLES = 20


@asynccontextmanager
async def configured(backend: str, upstream: MemoryUpstream) -> AsyncIterator[Mapping[str, str]]:
    """Yield the environment that selects a backend, with the services that it requires running."""
    environment = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "ok", "MEMORY_BACKEND": backend}
    if backend == "mem0_platform":
        async with Mem0Platform() as platform:
            yield environment | {"MEM0_HOST": platform.host, "MEM0_API_KEY": KEY}
    else:
        yield environment


@dataclass
class Chat:
    """A user's requests to one service."""

    client: httpx2.AsyncClient
    upstream: MemoryUpstream
    user: str = "ann"

    async def say(self, text: str, conversation: str) -> str:
        """Send a message and return the prompt that the model received for it."""
        body = {"user_id": self.user, "conversation_id": conversation, "message": text}
        (await self.client.post("/api/chat/simple", json=body)).raise_for_status()
        prompts = [request.body["messages"][-1]["content"] for request in self.upstream.requests if is_chat(request)]
        return str(prompts[-1])

    async def store(self, fact: str) -> httpx2.Response:
        return await self.client.post(f"/api/memories/{self.user}", json={"fact": fact, "importance": 0.9})

    async def facts(self) -> list[str]:
        found = (await self.client.get(f"/api/memories/{self.user}?limit=200")).raise_for_status().json()
        return [one["fact"] for one in found["memories"]]

    async def until_settled(self) -> None:
        """Wait until the memory outbox is empty."""
        with anyio.fail_after(60):
            while True:
                work = (await self.client.get("/api/health/detailed")).json()["memory"]
                if work["pending"] == work["forgetting"] == 0:
                    return
                await asyncio.sleep(0.05)


def is_chat(request: Any) -> bool:
    """Whether a request to the model's service belongs to a chat; the others are sent by Mem0."""
    return bool(request.body.get("stream"))


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_conversation_works_with_each_backend(forks: Forks, tmp_path: Path, backend: str) -> None:
    async with MemoryUpstream() as upstream, configured(backend, upstream) as environment:
        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            ann, bob = Chat(client, upstream), Chat(client, upstream, "bob")
            stored = await ann.store("Ann's dog is called Bello")
            assert (501 if backend == "none" else 201) == stored.status_code
            prompt = await ann.say("What is my dog called?", "one")
            assert (backend != "none") == ("Bello" in prompt)
            assert "Bello" not in await bob.say("What is my dog called?", "one")

            await ann.say("My cat is called Minka", "two")
            await ann.until_settled()
            prompt = await ann.say("What is my cat called?", "three")
            assert (backend in EXTRACTING) == ("Minka" in prompt)
            await ann.until_settled()
            facts = await ann.facts()
            service.signal(signal.SIGTERM)
            assert 0 == await service.wait(), await service.output()

        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            ann = Chat(client, upstream)
            assert (facts if backend in DURABLE else []) == await ann.facts()
            prompt = await ann.say("What is my dog called?", "four")
            assert (backend in DURABLE) == ("Bello" in prompt)
            await ann.until_settled()

            deleted = await client.delete("/api/chat/history/ann?memories=true")
            assert ("pending" if backend == "mem0_platform" else "deleted") == deleted.json()["memories"]
            assert [] == await ann.facts()
            assert "Bello" not in await ann.say("What is my dog called?", "five")
            await client.delete("/api/chat/history/ann?memories=true")
            await ann.until_settled()
            service.signal(signal.SIGTERM)
            assert 0 == await service.wait()
            assert "Traceback" not in await service.output()

        assert [] == await asyncio.to_thread(files_with, tmp_path / "data", b"Bello", b"bello", b"Minka", b"minka")


async def test_turns_are_served_while_the_store_of_mem0_cannot_be_reached(forks: Forks, tmp_path: Path) -> None:
    async with MemoryUpstream() as upstream, configured("mem0", upstream) as environment:
        environment = {**environment, "MEM0_VECTOR_STORE": "http://127.0.0.1:9"}
        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            ann = Chat(client, upstream)
            assert "My cat is called Minka" in await ann.say("My cat is called Minka", "one")
            stored = await ann.store("Ann's dog is called Bello")

    assert (503, "The store of the memories (127.0.0.1:9) cannot be reached (refused); check MEM0_VECTOR_STORE.") == (
        stored.status_code,
        stored.json()["detail"],
    )


@pytest.mark.row("M11")
async def test_an_embedder_that_does_not_fit_is_missing_or_slow_is_named(forks: Forks, tmp_path: Path) -> None:
    async with MemoryUpstream() as upstream, configured("mem0", upstream) as environment:
        upstream.dimensions = 256
        async with forks.service(tmp_path, **environment):
            pass
        upstream.dimensions = 768
        # Urgent, since a service whose embedder does not respond within two seconds starts without memory.
        code, output = await forks.run_urgently(tmp_path, "serve", **environment)
        assert 3 == code, output
        assert "by a model with 256 dimensions, and the configured one has 768; check MEM0_EMBEDDING_MODEL" in output

        upstream.dimensions = 256
        for fault, delay, reason in (
            ("status-404", 0.0, "does not know the model (HTTP 404)"),
            ("", 3.0, "within 2 s"),
        ):
            upstream.embedding_fault, upstream.embedding_delay = fault, delay
            async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
                chat = Chat(client, upstream)
                await chat.say("My dog is called Bello", "one")
                found = (await client.get("/api/health/detailed")).json()
                assert ("degraded", "memory_not_ready") == (found["status"], found["checks"]["memory_reason"])
                assert reason in found["checks"]["memory_detail"]
                assert 0 == found["memory"]["dead"]
                assert reason in await service.output()
                upstream.embedding_fault, upstream.embedding_delay = "", 0.0
                await chat.until_settled()
                assert "Bello" in await chat.say("What is my dog called?", "two")


def files_with(folder: Path, *needles: bytes) -> list[Path]:
    """Return the files that contain one of the needles."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if any(needle in path.read_bytes() for needle in needles)]


@pytest.mark.row("M3")
async def test_a_turn_is_remembered_once_if_the_service_is_killed_after_it_ended(forks: Forks, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    async with MemoryUpstream() as upstream, configured("mem0", upstream) as environment:
        environment = {**environment, "MEM0_INFER": "false"}
        for cycle in range(CYCLES):
            async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
                exchange = Exchange("ann", f"The number of cycle{cycle} is {cycle}")
                with suppress(httpx2.TransportError):
                    await follow(client, exchange)
                assert exchange.acknowledged
                acknowledged.append(exchange.message)
                await asyncio.sleep(cycle % 5 * 0.01)  # so that some kills precede and some follow the write to memory
                service.signal(signal.SIGKILL)
                await service.wait()
        async with forks.service(tmp_path, **environment) as service, client_of(service.url) as client:
            ann = Chat(client, upstream)
            await ann.until_settled()

            assert Counter(acknowledged) == Counter(await ann.facts())
