"""What the platform can be asked, and what its answers come down to."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from adapters.mem0_platform.client import PlatformClient
from adapters.mem0_platform.errors import ABSENT
from adapters.mem0_platform.responses import Event, Row, event_id_of, event_of, has_more, row_of, rows_of
from application.ports.memory import MemoryLeaked, MemoryUnavailable
from domain.conversation import UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId

PAGE_SIZE: Final = 100
MAX_PAGES: Final = 200
"""Of a listing that are read, so that one without an end is not read for ever."""

MAX_QUERY_CHARS: Final = 1_000

Messages = Sequence[Mapping[str, str]]


class PlatformAPI:
    """Requests, one method each, and the few that only make sense together.

    Every method raises:
        MemoryUnavailable, MemoryRefused: as the port says.
    """

    def __init__(self, client: PlatformClient) -> None:
        self._client = client

    async def ping(self) -> None:
        await self._client.fetch("/v1/ping/")

    async def add(self, user_id: UserId, messages: Messages, metadata: Mapping[str, Any], *, infer: bool) -> str:
        """The id of the event that the add becomes."""
        return event_id_of(
            await self._client.exchange(
                lambda mem0: mem0.add(messages, user_id=user_id, metadata=metadata, infer=infer)
            )
        )

    async def event(self, event_id: str) -> Event:
        try:
            return event_of(await self._client.fetch(f"/v1/event/{quote(event_id, safe='')}/", absent=ABSENT))
        except MemoryNotFound:
            return Event(finished=True, failed=False, added=0)  # so old that the platform has forgotten it

    async def get(self, user_id: UserId, memory_id: MemoryId) -> Row:
        """Raises: MemoryNotFound: there is none, or it is another's."""
        row = row_of(await self._client.exchange(lambda mem0: mem0.get(memory_id), absent={400, *ABSENT}))
        if row.memory.owner != user_id or row.memory.id != memory_id:
            raise MemoryNotFound
        return row

    async def update(self, memory_id: MemoryId, text: str, metadata: Mapping[str, Any]) -> None:
        """Raises: MemoryNotFound: it is gone."""
        await self._client.tell(lambda mem0: mem0.update(memory_id, text=text, metadata=metadata), absent=ABSENT)

    async def delete(self, memory_id: MemoryId) -> None:
        """Raises: MemoryNotFound: it is gone already."""
        await self._client.tell(lambda mem0: mem0.delete(memory_id), absent=ABSENT)

    async def delete_all(self, user_id: UserId) -> None:
        await self._client.tell(lambda mem0: mem0.delete_all(user_id=user_id))

    async def search(self, user_id: UserId, query: str, limit: int) -> Sequence[Row]:
        """What fits a query by the platform's own measure, whosever it says it is. Nothing fits a blank one."""
        asked = query[:MAX_QUERY_CHARS].strip()
        return await self._search(asked, {"user_id": user_id}, top_k=limit) if asked else []

    async def list(self, user_id: UserId) -> Sequence[Row]:
        """All there is, in no certain order, whosever the platform says it is."""
        return await self._list({"user_id": user_id})

    async def listed_with(self, user_id: UserId, key: str, value: str) -> Sequence[Row]:
        """The user's memories that were added with this in their metadata.

        Raises:
            MemoryLeaked: one in the listing is another's.
        """
        rows = await self._list({"AND": [{"user_id": user_id}, {"metadata": {key: value}}]})
        return [row for row in _owned(user_id, rows) if row.metadata.get(key) == value]

    async def listed(self, user_id: UserId, memory_id: MemoryId) -> Memory | None:
        """A memory as a listing shows it. Raises: MemoryLeaked: one in the listing is another's."""
        return _one_of(user_id, memory_id, await self._list(_only(user_id, memory_id)))

    async def found(self, user_id: UserId, memory_id: MemoryId, fact: str) -> Memory | None:
        """A memory as a search for what it says shows it. Raises: MemoryLeaked: something found is another's."""
        query = fact[:MAX_QUERY_CHARS].strip() or "?"
        rows = await self._search(query, _only(user_id, memory_id), top_k=10, threshold=0.0)
        return _one_of(user_id, memory_id, rows)

    async def has_any(self, user_id: UserId) -> bool:
        """Whether a listing or a search shows anything of a user; searches were seen to lag behind listings.

        Raises:
            MemoryLeaked: something of it is another's.
        """
        filters = {"user_id": user_id}
        listed = rows_of(await self._list_page(filters, page=1, page_size=1, show_expired=True))
        found = await self._search("user", filters, top_k=1, threshold=0.0, show_expired=True)
        return bool(_owned(user_id, [*listed, *found]))

    async def _list(self, filters: Mapping[str, Any]) -> Sequence[Row]:
        rows: dict[MemoryId, Row] = {}
        for number in range(1, MAX_PAGES + 1):
            answer = await self._list_page(filters, page=number, page_size=PAGE_SIZE)
            rows |= {row.memory.id: row for row in rows_of(answer)}
            if not has_more(answer):
                return list(rows.values())
        raise MemoryUnavailable("There are more memories than can be listed.")

    async def _list_page(self, filters: Mapping[str, Any], **options: Any) -> Any:
        return await self._client.exchange(lambda mem0: mem0.get_all(filters=filters, **options))

    async def _search(self, query: str, filters: Mapping[str, Any], **options: Any) -> Sequence[Row]:
        return rows_of(await self._client.exchange(lambda mem0: mem0.search(query, filters=filters, **options)))


def _owned(user_id: UserId, rows: Sequence[Row]) -> Sequence[Row]:
    if any(row.memory.owner != user_id for row in rows):
        raise MemoryLeaked
    return rows


def _one_of(user_id: UserId, memory_id: MemoryId, rows: Sequence[Row]) -> Memory | None:
    return next((row.memory for row in _owned(user_id, rows) if row.memory.id == memory_id), None)


def _only(user_id: UserId, memory_id: MemoryId) -> Mapping[str, Any]:
    """Filters that leave one memory."""
    return {"AND": [{"user_id": user_id}, {"memory_ids": [memory_id]}]}
