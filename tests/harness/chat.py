"""A running service with a scripted model, and helpers that send requests and read streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2

from tests.harness.exchange import TIMEOUT
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import Service, running_service

HELLO = {"user_id": "user123", "message": "Hello, how are you today?"}
HANGS = ScriptedReply(deltas=("Hel", "lo"), hangs=True)
SILENT = ScriptedReply(deltas=(), hangs=True)
WHOLE = (
    b'id: 1\ndata: {"content": "Hello", "done": false}\n\n'
    b'id: 2\ndata: {"content": ", ", "done": false}\n\n'
    b'id: 3\ndata: {"content": "world", "done": false}\n\n'
    b'id: 4\ndata: {"content": "!", "done": false}\n\n'
    b'id: 5\ndata: {"content": "", "done": true}\n\n'
    b"id: 6\ndata: [DONE]\n\n"
)


@asynccontextmanager
async def serving(*scripts: ScriptedReply, **settings: Any) -> AsyncIterator[tuple[Service, ScriptedLLM]]:
    """Run the service with a model that replies as scripted, one script per call."""
    llm = ScriptedLLM(*scripts)
    async with running_service({"llm": llm}, **settings) as service:
        yield service, llm


@dataclass
class Stream:
    """A response stream and the bytes received so far."""

    response: httpx2.Response
    received: bytearray = field(default_factory=bytearray)

    @property
    def turn_id(self) -> str:
        return str(self.response.headers["X-Turn-ID"])

    @property
    def events(self) -> bytes:
        """The bytes received so far, without comments."""
        return bytes(self.received).replace(b": keep-alive\n", b"")

    async def until(self, needle: bytes) -> None:
        await until(lambda: needle in self.received)


@asynccontextmanager
async def streaming(service: Service, path: str = "/api/chat", **arguments: Any) -> AsyncIterator[Stream]:
    """Open a stream and read it in the background. Exiting the context closes the connection."""
    method = "POST" if "json" in arguments or path == "/api/chat" else "GET"
    if path == "/api/chat":
        arguments["json"] = HELLO | arguments.get("json", {})
    async with service.client.stream(method, path, **arguments) as response:
        stream = Stream(response)

        async def read() -> None:
            async for data in response.aiter_raw():
                stream.received += data

        reading = asyncio.create_task(read())
        try:
            yield stream
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.sleep(0.005)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(TIMEOUT):
        while not await condition():
            await anyio.sleep(0.01)


async def post(service: Service, path: str = "/api/chat", **fields: Any) -> httpx2.Response:
    return await service.client.post(path, json=HELLO | fields)


async def history(service: Service, query: str = "", user: str = "user123") -> Any:
    response = await service.client.get(f"/api/chat/history/{user}{query}")
    assert response.status_code == 200
    return response.json()


async def last_turn(service: Service) -> Any:
    return (await history(service))["history"][-1]


async def has_turns(service: Service) -> bool:
    return bool((await history(service))["count"])


async def has_status(service: Service, status: str) -> bool:
    return bool((await last_turn(service))["status"] == status)
