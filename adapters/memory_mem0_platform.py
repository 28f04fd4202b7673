"""Long-term memory in Mem0's hosted service.

The platform does what it is told a while later: an add becomes an event, and what was added, changed or deleted reaches
listings and searches each in its own time. Methods that write therefore look until they see what they did.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import structlog

from adapters.mem0.platform_answers import (
    CREATED_AT,
    FACT_KEY,
    IMPORTANCE,
    TURN_ID,
    Event,
    Row,
    event_id_of,
    event_of,
    has_more,
    row_of,
    rows_of,
)
from adapters.mem0.platform_client import PlatformClient
from adapters.mem0.platform_errors import ABSENT
from adapters.mem0.platform_state import Add, AddsUnderWay, Emptiness
from application.ports.memory import LongTermMemory, LongTermMemoryError, MemoryLeaked, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, MemoryId, Recalled
from domain.paging import Page, page_of, place_of

PAGE_SIZE: Final = 100
MAX_PAGES: Final = 200
"""Of a listing that are read, so that one without an end is not read for ever."""

MAX_QUERY_CHARS: Final = 1_000

PAUSES: Final = (0.01, 2.0)
"""The first and the longest pause between two looks, in seconds; each is twice the one before."""

Seen = TypeVar("Seen")


class MemoryMem0Platform(LongTermMemory):
    """Memories at Mem0's hosted service, under the users' own ids. All limits are in seconds.

    `host` is a URL, None for the public service; `data_dir` gets a folder for what mem0 writes. `request_timeout` is
    for one request, the pieces of its answer included, and `settle_timeout` for how long a write waits to be seen.
    `forget_interval` lies between the two looks that forgetting a user takes. With `infer` the platform distils what
    is worth keeping of a turn; without, what the user said is kept, and never the reply.
    """

    learns = True

    def __init__(
        self,
        *,
        api_key: str,
        host: str | None,
        data_dir: Path,
        infer: bool = True,
        connect_timeout: float = 5,
        request_timeout: float = 30,
        pool_timeout: float = 2,
        settle_timeout: float = 30,
        forget_interval: float = 5,
        max_connections: int = 20,
    ) -> None:
        self._platform = PlatformClient(
            api_key=api_key,
            host=host,
            data_dir=data_dir,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
            pool_timeout=pool_timeout,
            max_connections=max_connections,
        )
        self._infer = infer
        self._connect_timeout = connect_timeout
        self._settle_timeout = settle_timeout
        self._adds = AddsUnderWay()
        self._emptiness = Emptiness(forget_interval)

    async def open(self) -> None:
        """Build the client and see whether the platform answers, for `connect_timeout` seconds at most.

        A platform that is down, slow, or refuses the key only makes for a line in the log: it is someone else's, may be
        well a minute later, and chats go on without it.

        Raises:
            ImportError: mem0ai is not installed.
            OSError: mem0's folder can not be made.
        """
        failure: LongTermMemoryError | None = None
        try:
            await self._platform.open()
            async with asyncio.timeout(self._connect_timeout):
                await self.check()
        except LongTermMemoryError as error:
            failure = error
        except TimeoutError:
            failure = MemoryUnavailable()
        if failure:
            structlog.get_logger().warning("memory_platform_not_ready", code=failure.code, detail=failure.detail)

    async def close(self) -> None:
        """Close the connections. No call may be running or follow."""
        await self._platform.close()

    async def check(self) -> None:
        await self._platform.fetch("/v1/ping/")

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        key = str(uuid4())
        metadata = {FACT_KEY: key, IMPORTANCE: importance, CREATED_AT: datetime.now(UTC).isoformat()}
        async with self._in_time():
            add = await self._add(user_id, key, [{"role": "user", "content": fact}], metadata, infer=False)
            await self._finished(key, add)
            row = await _seen(lambda: self._first_listed(user_id, FACT_KEY, key))
            await _seen(lambda: self._found(user_id, row.memory.id, fact))
        return row.memory

    async def remember(self, turn: Turn) -> None:
        said = {"role": "user", "content": turn.user_message if self._infer else turn.user_message[:MAX_FACT_CHARS]}
        messages = [said, {"role": "assistant", "content": turn.reply}] if self._infer else [said]
        metadata = {
            TURN_ID: turn.id,
            IMPORTANCE: DEFAULT_IMPORTANCE,
            CREATED_AT: turn.started_at.astimezone(UTC).isoformat(),
        }
        async with self._in_time():
            if await self._listed(turn.user_id, TURN_ID, turn.id):
                return
            add = self._adds.get(turn.id) or await self._add(
                turn.user_id, turn.id, messages, metadata, infer=self._infer
            )
            event = await self._finished(turn.id, add)

            async def all_listed() -> bool | None:
                return len(await self._listed(turn.user_id, TURN_ID, turn.id)) >= event.added or None

            await _seen(all_listed)

    async def unremember(self, turn: Turn) -> None:
        taken_back: dict[MemoryId, Memory] = {}

        async def none_listed() -> bool | None:
            rows = await self._listed(turn.user_id, TURN_ID, turn.id)
            for row in rows:
                taken_back[row.memory.id] = row.memory
                with suppress(MemoryNotFound):
                    await self._delete(row.memory.id)
            return not rows or None

        async with self._in_time():
            if add := self._adds.get(turn.id):
                await _seen(lambda: self._event(turn.id, add))
            await _seen(none_listed)
            for memory in taken_back.values():
                await self._gone(turn.user_id, memory)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        asked = query[:MAX_QUERY_CHARS].strip()
        if not asked:
            return []
        rows = await self._search(asked, {"user_id": user_id}, top_k=limit)
        return sorted((row.recalled for row in rows), key=lambda one: one.score, reverse=True)[:limit]

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        # Read whole each time: the platform says nothing of the order, and its numbered pages shift with each add.
        before = place_of(cursor)
        memories = [row.memory for row in await self._list({"user_id": user_id})]
        placed = _placed(sorted(memories, key=lambda memory: (memory.created_at, memory.id)))
        return page_of((entry for entry in placed[::-1] if entry[0] < before), limit)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        row = await self._row(user_id, memory_id)
        old = row.memory
        text = old.fact if fact is None else fact
        weight = old.importance if importance is None else importance
        # Both always, and the metadata whole: whether the platform merges or replaces it, nothing gets lost.
        change = {"text": text, "metadata": {**row.metadata, IMPORTANCE: weight}}

        async def changed() -> Memory | None:
            listed, found = await self._shown(user_id, old.id, text)
            new = [(one.fact, one.importance) == (text, weight) for one in (listed, found) if one]
            return listed if new == [True, True] else None

        async with self._in_time():
            await self._platform.tell(lambda mem0: mem0.update(memory_id, **change), absent=ABSENT)
            return await _seen(changed)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        row = await self._row(user_id, memory_id)
        async with self._in_time():
            await self._delete(memory_id)
            await self._gone(user_id, row.memory)

    async def forget_all(self, user_id: UserId) -> bool:
        now = asyncio.get_running_loop().time
        looked_before = self._emptiness.begun(user_id, now())
        if not looked_before:
            await self._delete_all(user_id)
        if await self._awaits_adds(user_id) or await self._has_any(user_id):
            self._emptiness.broken(user_id)
            if looked_before:
                await self._delete_all(user_id)  # it came back
            return False
        return self._emptiness.seen(user_id, now())

    async def _add(
        self, user_id: UserId, key: str, messages: Sequence[Any], metadata: Mapping[str, Any], *, infer: bool
    ) -> Add:
        self._emptiness.broken(user_id)
        answer = await self._platform.exchange(
            lambda mem0: mem0.add(messages, user_id=user_id, metadata=metadata, infer=infer)
        )
        add = self._adds[key] = Add(user_id, event_id_of(answer))
        return add

    async def _finished(self, key: str, add: Add) -> Event:
        event = await _seen(lambda: self._event(key, add))
        if event.failed:
            raise MemoryUnavailable("The memory platform could not keep it.")
        return event

    async def _event(self, key: str, add: Add) -> Event | None:
        """How an add ended; None while it has not."""
        try:
            event = event_of(await self._platform.fetch(f"/v1/event/{add.event_id}/", absent=ABSENT))
        except MemoryNotFound:
            event = Event(finished=True, failed=False, added=0)  # so old that the platform has forgotten it
        if not event.finished:
            return None
        self._adds.pop(key, None)
        return event

    async def _awaits_adds(self, user_id: UserId) -> bool:
        return None in [await self._event(key, add) for key, add in self._adds.of(user_id)]

    async def _row(self, user_id: UserId, memory_id: MemoryId) -> Row:
        """Raises: MemoryNotFound: there is none, or it is another's."""
        answer = await self._platform.exchange(lambda mem0: mem0.get(memory_id), absent={400, *ABSENT})
        row = row_of(answer)
        if row.memory.owner != user_id or row.memory.id != memory_id:
            raise MemoryNotFound
        return row

    async def _delete(self, memory_id: MemoryId) -> None:
        await self._platform.tell(lambda mem0: mem0.delete(memory_id), absent=ABSENT)

    async def _delete_all(self, user_id: UserId) -> None:
        await self._platform.tell(lambda mem0: mem0.delete_all(user_id=user_id))

    async def _list(self, filters: Mapping[str, Any]) -> Sequence[Row]:
        rows: dict[MemoryId, Row] = {}
        for number in range(1, MAX_PAGES + 1):
            answer = await self._list_page(filters, page=number, page_size=PAGE_SIZE)
            rows |= {row.memory.id: row for row in rows_of(answer)}
            if not has_more(answer):
                return list(rows.values())
        raise MemoryUnavailable("There are more memories than can be listed.")

    async def _list_page(self, filters: Mapping[str, Any], **options: Any) -> Any:
        return await self._platform.exchange(lambda mem0: mem0.get_all(filters=filters, **options))

    async def _search(self, query: str, filters: Mapping[str, Any], **options: Any) -> Sequence[Row]:
        return rows_of(await self._platform.exchange(lambda mem0: mem0.search(query, filters=filters, **options)))

    async def _listed(self, user_id: UserId, key: str, value: str) -> Sequence[Row]:
        """The user's memories that were added with this in their metadata."""
        rows = _owned(user_id, await self._list({"AND": [{"user_id": user_id}, {"metadata": {key: value}}]}))
        return [row for row in rows if row.metadata.get(key) == value]

    async def _first_listed(self, user_id: UserId, key: str, value: str) -> Row | None:
        return next(iter(await self._listed(user_id, key, value)), None)

    async def _shown(self, user_id: UserId, memory_id: MemoryId, fact: str) -> tuple[Memory | None, Memory | None]:
        """A memory as a listing and as a search show it."""
        listed = _one_of(user_id, memory_id, await self._list(_only(user_id, memory_id)))
        return listed, await self._found(user_id, memory_id, fact)

    async def _found(self, user_id: UserId, memory_id: MemoryId, fact: str) -> Memory | None:
        """A memory as a search for what it says shows it."""
        query = fact[:MAX_QUERY_CHARS].strip() or "?"
        rows = await self._search(query, _only(user_id, memory_id), top_k=10, threshold=0.0)
        return _one_of(user_id, memory_id, rows)

    async def _gone(self, user_id: UserId, memory: Memory) -> None:
        async def shown_nowhere() -> bool | None:
            return await self._shown(user_id, memory.id, memory.fact) == (None, None) or None

        await _seen(shown_nowhere)

    async def _has_any(self, user_id: UserId) -> bool:
        """Whether a listing or a search shows anything of a user; searches were seen to lag behind listings."""
        filters = {"user_id": user_id}
        listed = rows_of(await self._list_page(filters, page=1, page_size=1, show_expired=True))
        found = await self._search("user", filters, top_k=1, threshold=0.0, show_expired=True)
        return bool(_owned(user_id, [*listed, *found]))

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Raises: MemoryUnavailable: what was to be seen is not there in time."""
        try:
            async with asyncio.timeout(self._settle_timeout):
                yield
        except TimeoutError:
            raise MemoryUnavailable("The memory platform has not done yet as it was told.") from None


async def _seen(look: Callable[[], Awaitable[Seen | None]]) -> Seen:
    """What there is to see, once there is. A platform that fails meanwhile is asked again: it has been told already."""
    pause, longest = PAUSES
    while True:
        wait = pause
        try:
            if (seen := await look()) is not None:
                return seen
        except MemoryLeaked:
            raise
        except MemoryUnavailable as failure:
            wait = max(pause, failure.retry_after or 0)
        await asyncio.sleep(wait)
        pause = min(2 * pause, longest)


def _owned(user_id: UserId, rows: Sequence[Row]) -> Sequence[Row]:
    """Raises: MemoryLeaked: one is another's."""
    if any(row.memory.owner != user_id for row in rows):
        raise MemoryLeaked
    return rows


def _one_of(user_id: UserId, memory_id: MemoryId, rows: Sequence[Row]) -> Memory | None:
    return next((row.memory for row in _owned(user_id, rows) if row.memory.id == memory_id), None)


def _only(user_id: UserId, memory_id: MemoryId) -> Mapping[str, Any]:
    """Filters that leave one memory."""
    return {"AND": [{"user_id": user_id}, {"memory_ids": [memory_id]}]}


def _placed(oldest_first: Sequence[Memory]) -> Sequence[tuple[int, Memory]]:
    """Memories with places that rise and fit a cursor: their time in microseconds, and two digits for those of one."""
    place, placed = -1, []
    for memory in oldest_first:
        place = max(place + 1, round(memory.created_at.timestamp() * 1_000_000) * 100)
        placed.append((place, memory))
    return placed
