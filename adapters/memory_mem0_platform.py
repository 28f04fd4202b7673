"""Long-term memory in Mem0's hosted service.

The platform does what it is told a while later: an add becomes an event, and what was added, changed or deleted reaches
listings and searches each in its own time. Methods that write therefore look until they see what they did.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from adapters.mem0_platform.api import Messages, PlatformAPI
from adapters.mem0_platform.client import PlatformClient
from adapters.mem0_platform.polling import in_time, seen
from adapters.mem0_platform.responses import CREATED_AT, FACT_KEY, IMPORTANCE, TURN_ID, Event
from adapters.mem0_platform.state import Add, AddsUnderWay, Emptiness
from application.ports.memory import LongTermMemory, LongTermMemoryError, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, MemoryId, Recalled, only_asks
from domain.paging import Page, page_of, parse_cursor


class MemoryMem0Platform(LongTermMemory):
    """Memories at Mem0's hosted service, under the users' own ids. All limits are in seconds.

    `host` is a URL, None for the public service; `data_dir` gets a folder for what mem0 writes. `request_timeout` is
    for one request, the pieces of its answer included, and `settle_timeout` for how long a write waits to be seen.
    `forget_interval` lies between the two looks that forgetting a user takes. With `infer` the platform distils what
    is worth keeping of a turn; without, what the user said is kept unless it only asks, and never the reply.
    """

    extracts_from_turns = True

    def __init__(
        self,
        *,
        api_key: str,
        host: str | None,
        data_dir: Path,
        infer: bool = True,
        connect_timeout: float = 5,
        request_timeout: float = 10,
        pool_timeout: float = 2,
        settle_timeout: float = 25,
        forget_interval: float = 5,
        max_connections: int = 20,
    ) -> None:
        self._client = PlatformClient(
            api_key=api_key,
            host=host,
            data_dir=data_dir,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
            pool_timeout=pool_timeout,
            max_connections=max_connections,
        )
        self._api = PlatformAPI(self._client)
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
            await self._client.open()
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
        await self._client.close()

    async def check(self) -> None:
        await self._api.ping()

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        key = str(uuid4())
        metadata = {FACT_KEY: key, IMPORTANCE: importance, CREATED_AT: datetime.now(UTC).isoformat()}
        async with in_time(self._settle_timeout):
            add = await self._add(user_id, key, [{"role": "user", "content": fact}], metadata, infer=False)
            await self._finished(key, add)
            row = (await seen(lambda: self._api.listed_with(user_id, FACT_KEY, key)))[0]
            await seen(lambda: self._api.found(user_id, row.memory.id, fact))
        return row.memory

    async def remember(self, turn: Turn) -> None:
        if not self._infer and only_asks(turn.user_message):
            return
        said = {"role": "user", "content": turn.user_message if self._infer else turn.user_message[:MAX_FACT_CHARS]}
        messages = [said, {"role": "assistant", "content": turn.reply}] if self._infer else [said]
        metadata = {
            TURN_ID: turn.id,
            IMPORTANCE: DEFAULT_IMPORTANCE,
            CREATED_AT: turn.started_at.astimezone(UTC).isoformat(),
        }
        async with in_time(self._settle_timeout):
            if await self._api.listed_with(turn.user_id, TURN_ID, turn.id):
                return
            add = self._adds.get(turn.id) or await self._add(
                turn.user_id, turn.id, messages, metadata, infer=self._infer
            )
            event = await self._finished(turn.id, add)

            async def all_listed() -> bool:
                return len(await self._api.listed_with(turn.user_id, TURN_ID, turn.id)) >= event.added

            await seen(all_listed)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        rows = await self._api.search(user_id, query, limit)
        return sorted((row.recalled for row in rows), key=lambda one: one.score, reverse=True)[:limit]

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        # Read whole each time: the platform says nothing of the order, and its numbered pages shift with each add.
        before = parse_cursor(cursor)
        memories = [row.memory for row in await self._api.list(user_id)]
        placed = _placed(sorted(memories, key=lambda memory: (memory.created_at, memory.id)))
        return page_of((entry for entry in placed[::-1] if entry[0] < before), limit)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        row = await self._api.get(user_id, memory_id)
        old = row.memory
        text = old.fact if fact is None else fact
        weight = old.importance if importance is None else importance
        # Both always, and the metadata whole: whether the platform merges or replaces it, nothing gets lost.
        metadata = {**row.metadata, IMPORTANCE: weight}

        async def changed() -> Memory | None:
            listed, found = await self._shown(user_id, old.id, text)
            new = [(one.fact, one.importance) == (text, weight) for one in (listed, found) if one]
            return listed if new == [True, True] else None

        async with in_time(self._settle_timeout):
            await self._api.update(memory_id, text, metadata)
            return await seen(changed)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        row = await self._api.get(user_id, memory_id)
        async with in_time(self._settle_timeout):
            await self._api.delete(memory_id)
            await self._gone(user_id, row.memory)

    async def forget_all(self, user_id: UserId) -> bool:
        now = asyncio.get_running_loop().time
        looked_before = self._emptiness.begun(user_id, now())
        if not looked_before:
            await self._api.delete_all(user_id)
        if await self._awaits_adds(user_id) or await self._api.has_any(user_id):
            self._emptiness.broken(user_id)
            if looked_before:
                await self._api.delete_all(user_id)  # it came back
            return False
        return self._emptiness.seen(user_id, now())

    async def _add(
        self, user_id: UserId, key: str, messages: Messages, metadata: Mapping[str, Any], *, infer: bool
    ) -> Add:
        self._emptiness.broken(user_id)
        try:
            event_id = await self._api.add(user_id, messages, metadata, infer=infer)
        finally:
            self._emptiness.broken(user_id)  # also where an answer got lost: what was looked at meanwhile tells nothing
        add = self._adds[key] = Add(user_id, event_id)
        return add

    async def _finished(self, key: str, add: Add) -> Event:
        event = await seen(lambda: self._event(key, add))
        if event.failed:
            raise MemoryUnavailable("The memory platform could not keep it.")
        return event

    async def _event(self, key: str, add: Add) -> Event | None:
        """How an add ended; None while it has not."""
        event = await self._api.event(add.event_id)
        if not event.finished:
            return None
        self._adds.pop(key, None)
        return event

    async def _awaits_adds(self, user_id: UserId) -> bool:
        return None in [await self._event(key, add) for key, add in self._adds.of(user_id)]

    async def _shown(self, user_id: UserId, memory_id: MemoryId, fact: str) -> tuple[Memory | None, Memory | None]:
        """A memory as a listing and as a search show it."""
        listed = await self._api.listed(user_id, memory_id)
        return listed, await self._api.found(user_id, memory_id, fact)

    async def _gone(self, user_id: UserId, memory: Memory) -> None:
        async def shown_nowhere() -> bool:
            return await self._shown(user_id, memory.id, memory.fact) == (None, None)

        await seen(shown_nowhere)


def _placed(oldest_first: Sequence[Memory]) -> Sequence[tuple[int, Memory]]:
    """Memories with places that rise and fit a cursor: their time in microseconds, and two digits for those of one."""
    place, placed = -1, []
    for memory in oldest_first:
        place = max(place + 1, round(memory.created_at.timestamp() * 1_000_000) * 100)
        placed.append((place, memory))
    return placed
