"""Sends a message and follows its reply, recording the events and when they arrived."""

import asyncio
import json
import math
from dataclasses import dataclass, field
from typing import Any

import httpcore2  # noqa: F401  # httpx2 imports it with its first client, when it would block the test's loop
import httpx2

PATIENCE = 30
"""Seconds after which a service counts as hanging."""


@dataclass
class Exchange:
    """A turn as its client saw it."""

    user_id: str
    message: str
    turn_id: str = ""
    """Known once the headers have arrived."""
    texts: list[str] = field(default_factory=list)
    seen_at: list[float] = field(default_factory=list)
    """When each of `texts` arrived, on the loop's clock."""
    last: dict[str, Any] | None = None
    """The event with `done: true`."""
    closed_properly: bool = False
    """`[DONE]` has arrived."""
    cut_at: float = math.inf
    """When the service was killed, on the loop's clock."""

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def acknowledged(self) -> bool:
        """Whether the client has received `done: true` without an error."""
        return self.last is not None and "error" not in self.last

    def text_until(self, moment: float) -> str:
        return "".join(text for text, seen_at in zip(self.texts, self.seen_at, strict=True) if seen_at <= moment)


def client_of(url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx2.Limits(max_connections=None))


async def follow(client: httpx2.AsyncClient, exchange: Exchange) -> None:
    """Send the message and record the reply in `exchange` as it arrives.

    Raises:
        httpx2.TransportError: the connection broke.
    """
    body = {"user_id": exchange.user_id, "message": exchange.message}
    async with client.stream("POST", "/api/chat", json=body) as response:
        assert response.status_code == 200, await response.aread()
        exchange.turn_id = response.headers["X-Turn-ID"]
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                exchange.closed_properly = True
            elif line.startswith("data: "):
                _note(exchange, json.loads(line.removeprefix("data: ")))


def _note(exchange: Exchange, event: dict[str, Any]) -> None:
    if event["done"]:
        exchange.last = event
    else:
        exchange.texts.append(event["content"])
        exchange.seen_at.append(asyncio.get_running_loop().time())


async def history(client: httpx2.AsyncClient, user_id: str) -> list[dict[str, Any]]:
    """All turns of a user, oldest first, page by page."""
    turns: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(f"/api/chat/history/{user_id}", params=query)).raise_for_status().json()
        turns = page["history"] + turns
        cursor = page["next_cursor"]
    return turns
