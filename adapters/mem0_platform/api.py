"""The requests to the platform that the adapter needs, with parsed responses."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from adapters.mem0_platform.client import PlatformClient
from adapters.mem0_platform.errors import ABSENT
from adapters.mem0_platform.responses import (
    INVALID,
    Event,
    Row,
    has_next_page,
    names_account,
    parse_event,
    parse_event_id,
    parse_row,
    parse_rows,
)
from application.ports.memory import MemoryLeaked, MemoryMisconfigured, MemoryNotReady, MemoryUnavailable
from domain.conversation import UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId

Messages = Sequence[Mapping[str, str]]

_NOBODY: Final = "smart-chatbot-check"
"""A user whose memories are listed as a check; nothing is stored for them."""


class PlatformAPI:
    """One method for each kind of request. Queries are cut to `max_query_chars`.

    Listings are read in pages of `page_size`, up to `max_pages`, so that one that never ends is given up.

    Every method raises:
        MemoryUnavailable, MemoryRefused: see the port.
    """

    def __init__(
        self, client: PlatformClient, *, page_size: int = 100, max_pages: int = 200, max_query_chars: int = 1_000
    ) -> None:
        self._client = client
        self._page_size = page_size
        self._max_pages = max_pages
        self._max_query_chars = max_query_chars

    async def ping(self) -> None:
        """Check that the platform responds, and that it is Mem0's: other services respond to any path, too.

        Raises:
            MemoryMisconfigured: it is another service.
        """
        if names_account(await self._client.get("/v1/ping/")):
            return
        try:
            parse_rows(await self._list_page({"user_id": _NOBODY}, page=1, page_size=1))
        except MemoryNotReady:
            raise
        except MemoryUnavailable as failure:
            if failure.detail != INVALID:
                raise
            raise MemoryMisconfigured("The memory platform's response is invalid; check MEM0_HOST.") from None

    async def add(self, user_id: UserId, messages: Messages, metadata: Mapping[str, Any], *, infer: bool) -> str:
        """Start an add, and return the id of the event that tracks it."""
        return parse_event_id(
            await self._client.call(lambda mem0: mem0.add(messages, user_id=user_id, metadata=metadata, infer=infer))
        )

    async def event(self, event_id: str) -> Event:
        """Return the progress of an add. An event that the platform has dropped counts as finished."""
        try:
            return parse_event(await self._client.get(f"/v1/event/{quote(event_id, safe='')}/", absent=ABSENT))
        except MemoryNotFound:
            return Event(finished=True, failed=False, added=0)

    async def get(self, user_id: UserId, memory_id: MemoryId) -> Row:
        """Return a memory of the user. Raises: MemoryNotFound: there is none, or it is another user's."""
        row = parse_row(await self._client.call(lambda mem0: mem0.get(memory_id), absent={400, *ABSENT}))
        if row.memory.owner != user_id or row.memory.id != memory_id:
            raise MemoryNotFound
        return row

    async def update(self, memory_id: MemoryId, text: str, metadata: Mapping[str, Any]) -> None:
        """Raises: MemoryNotFound: it has been deleted."""
        await self._client.execute(lambda mem0: mem0.update(memory_id, text=text, metadata=metadata), absent=ABSENT)

    async def delete(self, memory_id: MemoryId) -> None:
        """Raises: MemoryNotFound: it has been deleted already."""
        await self._client.execute(lambda mem0: mem0.delete(memory_id), absent=ABSENT)

    async def delete_all(self, user_id: UserId) -> None:
        await self._client.execute(lambda mem0: mem0.delete_all(user_id=user_id))

    async def search(self, user_id: UserId, query: str, limit: int) -> Sequence[Row]:
        """Return the memories that match a query by the platform's own measure; none for a blank one.

        Owners are not checked.
        """
        text = query[: self._max_query_chars].strip()
        return await self._search(text, {"user_id": user_id}, top_k=limit) if text else []

    async def list(self, user_id: UserId) -> Sequence[Row]:
        """Return all memories of a user, in no particular order. Owners are not checked."""
        return await self._list({"user_id": user_id})

    async def list_with(self, user_id: UserId, key: str, value: str) -> Sequence[Row]:
        """Return the user's memories with `key: value` in their metadata.

        Raises:
            MemoryLeaked: another user's memory was listed.
        """
        rows = await self._list({"AND": [{"user_id": user_id}, {"metadata": {key: value}}]})
        return [row for row in _owned(user_id, rows) if row.metadata.get(key) == value]

    async def find_listed(self, user_id: UserId, memory_id: MemoryId) -> Memory | None:
        """Return a memory as a listing shows it. Raises: MemoryLeaked: another user's memory was listed."""
        return _pick(user_id, memory_id, await self._list(_only(user_id, memory_id)))

    async def find_searched(self, user_id: UserId, memory_id: MemoryId, fact: str) -> Memory | None:
        """Return a memory as a search for its text shows it. Raises: MemoryLeaked: another user's memory was found."""
        query = fact[: self._max_query_chars].strip() or "?"
        rows = await self._search(query, _only(user_id, memory_id), top_k=10, threshold=0.0)
        return _pick(user_id, memory_id, rows)

    async def has_any(self, user_id: UserId) -> bool:
        """Whether a listing or a search shows any memory of a user. Searches lag behind listings.

        Raises:
            MemoryLeaked: another user's memory was shown.
        """
        filters = {"user_id": user_id}
        listed = parse_rows(await self._list_page(filters, page=1, page_size=1, show_expired=True))
        found = await self._search("user", filters, top_k=1, threshold=0.0, show_expired=True)
        return bool(_owned(user_id, [*listed, *found]))

    async def _list(self, filters: Mapping[str, Any]) -> Sequence[Row]:
        rows: dict[MemoryId, Row] = {}
        for number in range(1, self._max_pages + 1):
            body = await self._list_page(filters, page=number, page_size=self._page_size)
            rows |= {row.memory.id: row for row in parse_rows(body)}
            if not has_next_page(body):
                return list(rows.values())
        raise MemoryUnavailable("There are more memories than can be listed.")

    async def _list_page(self, filters: Mapping[str, Any], **options: Any) -> Any:
        return await self._client.call(lambda mem0: mem0.get_all(filters=filters, **options))

    async def _search(self, query: str, filters: Mapping[str, Any], **options: Any) -> Sequence[Row]:
        return parse_rows(await self._client.call(lambda mem0: mem0.search(query, filters=filters, **options)))


def _owned(user_id: UserId, rows: Sequence[Row]) -> Sequence[Row]:
    if any(row.memory.owner != user_id for row in rows):
        raise MemoryLeaked
    return rows


def _pick(user_id: UserId, memory_id: MemoryId, rows: Sequence[Row]) -> Memory | None:
    return next((row.memory for row in _owned(user_id, rows) if row.memory.id == memory_id), None)


def _only(user_id: UserId, memory_id: MemoryId) -> Mapping[str, Any]:
    """Filters that match a single memory."""
    return {"AND": [{"user_id": user_id}, {"memory_ids": [memory_id]}]}
