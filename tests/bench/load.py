"""Readers that send messages to a service for some seconds and measure its streams."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

CHUNK, DONE = b'"done": false', b"data: [DONE]"


@dataclass
class Result:
    """The measurements of all readers together. `first` and `gaps` are in seconds."""

    chunks: int = 0
    turns: int = 0
    errors: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


async def load(ports: Sequence[int], streams: int, seconds: float) -> Result:
    """Let `streams` readers send one message after another for some seconds, then wait for the running streams.

    The readers are spread evenly over the ports.
    """
    result = Result()
    until = perf_counter() + seconds

    async def read_on(number: int) -> None:
        await asyncio.sleep(number / streams * min(2.0, seconds / 4))  # spread the starts
        while perf_counter() < until:
            await _read_one(ports[number % len(ports)], f"bench{number}", result)

    await asyncio.gather(*map(read_on, range(streams)))
    return result


async def _read_one(port: int, user: str, result: Result) -> None:
    body = json.dumps({"user_id": user, "message": "Hello, how are you today?"})
    head = (
        f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    started, last, tail = perf_counter(), 0.0, b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((head + body).encode())
        while data := await reader.read(65536):
            now = perf_counter()
            fresh = (tail + data).count(CHUNK) - tail.count(CHUNK)
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
