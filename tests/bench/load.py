"""Readers that send messages to a service for some seconds and measure its streams."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

DONE = b"data: [DONE]"
MESSAGE = "Hello, how are you today?"


@dataclass(frozen=True)
class Surface:
    """How to ask for a stream, and what each of its chunks contains."""

    path: str
    chunk: bytes
    headers: str = ""

    def body(self, user: str) -> str:
        if self is NATIVE:
            return json.dumps({"user_id": user, "message": MESSAGE})
        return json.dumps({"user": user, "messages": [{"role": "user", "content": MESSAGE}], "stream": True})


NATIVE = Surface("/api/chat", b'"done": false')
OPENAI = Surface("/v1/chat/completions", b'"delta":{"content":', "X-Conversation-Id: default\r\n")
"""The same turns in OpenAI's format."""


@dataclass
class Result:
    """The measurements of all readers together. `first` and `gaps` are in seconds."""

    chunks: int = 0
    turns: int = 0
    errors: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


async def load(ports: Sequence[int], streams: int, seconds: float, surface: Surface = NATIVE) -> Result:
    """Let `streams` readers send one message after another for some seconds, then wait for the running streams.

    The readers are spread evenly over the ports.
    """
    result = Result()
    until = perf_counter() + seconds

    async def read_on(number: int) -> None:
        await asyncio.sleep(number / streams * min(2.0, seconds / 4))  # spread the starts
        while perf_counter() < until:
            await _read_one(ports[number % len(ports)], f"bench{number}", surface, result)

    await asyncio.gather(*map(read_on, range(streams)))
    return result


async def _read_one(port: int, user: str, surface: Surface, result: Result) -> None:
    body = surface.body(user)
    head = (
        f"POST {surface.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"{surface.headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    started, last, tail = perf_counter(), 0.0, b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((head + body).encode())
        while data := await reader.read(65536):
            now = perf_counter()
            fresh = (tail + data).count(surface.chunk) - tail.count(surface.chunk)
            if fresh:
                result.chunks += fresh
                (result.gaps if last else result.first).append(now - (last or started))
                last = now
            tail = (tail + data)[-64:]
        writer.close()
    except OSError:
        tail = b""
    if DONE in tail:
        result.turns += 1
    else:
        result.errors += 1
