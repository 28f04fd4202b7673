"""A chat client that records the reply to one message and when each delta arrived."""

import asyncio
import json
import math
import ssl
from dataclasses import dataclass, field
from typing import Any

import httpcore2  # noqa: F401  # httpx2 imports it with its first client, when it would block the test's loop
import httpx2

TIMEOUT = 60
"""Seconds after which a request or process counts as hanging, also on a machine that is busy with other tests."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of services without TLS: by default each client loads all certificates, longer than most tests take."""


@dataclass
class Exchange:
    """One turn as seen by its client. Times are those of the event loop's clock."""

    user_id: str
    message: str
    turn_id: str = ""
    """Empty until the response headers have arrived."""
    deltas: list[str] = field(default_factory=list)
    received_at: list[float] = field(default_factory=list)
    """The arrival time of each delta."""
    last: dict[str, Any] | None = None
    """The event with `done: true`."""
    closed_properly: bool = False
    """Whether `[DONE]` was received."""
    killed_at: float = math.inf
    """When the service was killed."""

    @property
    def text(self) -> str:
        return "".join(self.deltas)

    @property
    def acknowledged(self) -> bool:
        """Whether the client was told that the turn is stored."""
        return self.last is not None and "error" not in self.last

    def text_until(self, time: float) -> str:
        """The text received by `time`."""
        received = zip(self.deltas, self.received_at, strict=True)
        return "".join(delta for delta, received_at in received if received_at <= time)


def client_of(url: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, verify=NO_TLS)


async def follow(client: httpx2.AsyncClient, exchange: Exchange) -> None:
    """Send the message, and record the reply in `exchange` while it arrives.

    Raises:
        httpx2.TransportError: the connection was closed or lost.
    """
    body = {"user_id": exchange.user_id, "message": exchange.message}
    async with client.stream("POST", "/api/chat", json=body) as response:
        assert response.status_code == 200, await response.aread()
        exchange.turn_id = response.headers["X-Turn-ID"]
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                exchange.closed_properly = True
            elif line.startswith("data: "):
                _record(exchange, json.loads(line.removeprefix("data: ")))


def _record(exchange: Exchange, event: dict[str, Any]) -> None:
    if event["done"]:
        exchange.last = event
    else:
        exchange.deltas.append(event["content"])
        exchange.received_at.append(asyncio.get_running_loop().time())


async def history(client: httpx2.AsyncClient, user_id: str) -> list[dict[str, Any]]:
    """Fetch all pages of a user's history; oldest turn first."""
    turns: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(f"/api/chat/history/{user_id}", params=query)).raise_for_status().json()
        turns = page["history"] + turns
        cursor = page["next_cursor"]
    return turns
