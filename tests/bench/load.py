"""Readers that stream from a service for a while, and what they saw."""

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter

CHUNK, DONE = b'"done": false', b"data: [DONE]"


@dataclass
class Seen:
    """What all readers of one round saw together; times in seconds."""

    chunks: int = 0
    turns: int = 0
    errors: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


async def load(port: int, streams: int, seconds: float) -> Seen:
    """Have `streams` readers ask again and again until the time is up; what is under way then ends."""
    seen = Seen()
    until = perf_counter() + seconds

    async def read_on(number: int) -> None:
        await asyncio.sleep(number / streams * min(2.0, seconds / 4))  # not all in step
        while perf_counter() < until:
            await _read_one(port, f"bench{number}", seen)

    await asyncio.gather(*map(read_on, range(streams)))
    return seen


async def _read_one(port: int, user: str, seen: Seen) -> None:
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
                seen.chunks += fresh
                (seen.gaps if last else seen.first).append(now - (last or started))
                last = now
            tail = (tail + data)[-64:]
        writer.close()
    except OSError:
        tail = b""
    if DONE in tail:
        seen.turns += 1
    else:
        seen.errors += 1
