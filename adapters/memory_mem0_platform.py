"""LongTermMemory on Mem0's hosted platform.

The platform is eventually consistent: an add becomes an event, and what was added, changed or deleted reaches listings
and searches at different times. Methods that write therefore poll until both show the effect.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import anyio
import structlog

from adapters.mem0_platform.api import Messages, PlatformAPI
from adapters.mem0_platform.client import PlatformClient
from adapters.mem0_platform.polling import poll, settle_within
from adapters.mem0_platform.responses import CREATED_AT, FACT_KEY, IMPORTANCE, TURN_ID, Event
from adapters.mem0_platform.state import Add, DeletionConfirmations, PendingAdds
from application.ports.memory import LongTermMemory, LongTermMemoryError, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, MemoryId, Recalled, only_asks_questions
from domain.paging import Page, page_of_memories, parse_cursor


class MemoryMem0Platform(LongTermMemory):
    """Memories on Mem0's hosted platform, under the users' own ids.

        async with MemoryMem0Platform(api_key=key, host=None, data_dir=Path("data"), now=now) as memory: ...

    `host` is a URL, or None for the public service. `data_dir` gets a directory for mem0's configuration. If `infer`,
    the platform extracts facts from turns; otherwise the user's message is kept, unless it consists of questions only.

    Timeouts are in seconds. `request_timeout` limits a single request including its body, `settle_timeout` a write and
    the polling for its effect. `forget_interval` is the minimum time between the two checks that confirm that a user
    was forgotten.
    """

    extracts_from_turns = True

    def __init__(
        self,
        *,
        api_key: str,
        host: str | None,
        data_dir: Path,
        now: Callable[[], datetime],
        infer: bool = True,
        connect_timeout: float = 5,
        request_timeout: float = 10,
        pool_timeout: float = 2,
        settle_timeout: float = 25,
        forget_interval: float = 5,
        max_connections: int = 20,
        max_response_bytes: int = 16_000_000,
    ) -> None:
        self._client = PlatformClient(
            api_key=api_key,
            host=host,
            data_dir=data_dir,
            now=now,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
            pool_timeout=pool_timeout,
            max_connections=max_connections,
            max_response_bytes=max_response_bytes,
        )
        self._api = PlatformAPI(self._client)
        self._now = now
        self._infer = infer
        self._connect_timeout = connect_timeout
        self._settle_timeout = settle_timeout
        self._pending_adds = PendingAdds()
        self._deletions = DeletionConfirmations(forget_interval)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Build the client and ping the platform, for up to `connect_timeout` seconds.

        A platform that is down, slow or rejects the key is only logged: it may recover, and chats work without it.

        Raises:
            Unusable: mem0ai is not installed, or its directory cannot be created.
        """
        failure: LongTermMemoryError | None = None
        try:
            await self._client.open()
            async with asyncio.timeout(self._connect_timeout):
                await self.check()
        except LongTermMemoryError as error:
            failure = error
        except TimeoutError:
            limit = self._connect_timeout
            failure = MemoryUnavailable(f"The memory platform has not responded within {limit:g} s; check MEM0_HOST.")
        except BaseException:
            await self.close()
            raise
        if failure:
            structlog.get_logger().warning("memory not ready", code=failure.code, reason=failure.detail)

    async def close(self) -> None:
        """Close the connections. No call may be running or follow."""
        await self._client.close()

    async def check(self) -> None:
        await self._api.ping()

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        key = str(uuid4())
        messages = [{"role": "user", "content": fact}]
        metadata = {FACT_KEY: key, IMPORTANCE: importance, CREATED_AT: self._now().isoformat()}
        async with settle_within(self._settle_timeout):
            add = await self._add(user_id, key, messages, metadata, infer=False)
            await self._wait_for_event(key, add)
            row = (await poll(lambda: self._api.list_with(user_id, FACT_KEY, key)))[0]
            await poll(lambda: self._api.find_searched(user_id, row.memory.id, fact))
        return row.memory

    async def remember(self, turn: Turn) -> None:
        if not self._infer and only_asks_questions(turn.user_message):
            return
        async with settle_within(self._settle_timeout):
            if await self._api.list_with(turn.user_id, TURN_ID, turn.id):
                return
            event = await self._wait_for_event(turn.id, self._pending_adds.get(turn.id) or await self._add_turn(turn))

            async def all_listed() -> bool:
                return len(await self._api.list_with(turn.user_id, TURN_ID, turn.id)) >= event.added

            await poll(all_listed)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        rows = await self._api.search(user_id, query, limit)
        return sorted((row.recalled for row in rows), key=lambda one: one.score, reverse=True)[:limit]

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        parse_cursor(cursor)  # an invalid one is rejected before anything is sent
        # The whole listing is read each time: the platform's order is undocumented, and its pages shift with each add.
        return page_of_memories([row.memory for row in await self._api.list(user_id)], limit, cursor)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        row = await self._api.get(user_id, memory_id)
        old = row.memory
        text = old.fact if fact is None else fact
        weight = old.importance if importance is None else importance
        # Text and complete metadata are sent always: whether the platform merges or replaces, nothing is lost.
        metadata = {**row.metadata, IMPORTANCE: weight}

        async def corrected() -> Memory | None:
            shown = await self._shown(user_id, old.id, text)
            matches = [(one.fact, one.importance) == (text, weight) for one in shown if one]
            return shown[0] if matches == [True, True] else None

        async with settle_within(self._settle_timeout):
            await self._api.update(memory_id, text, metadata)
            return await poll(corrected)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        fact = (await self._api.get(user_id, memory_id)).memory.fact

        async def gone() -> bool:
            return await self._shown(user_id, memory_id, fact) == (None, None)

        async with settle_within(self._settle_timeout):
            await self._api.delete(memory_id)
            await poll(gone)

    async def forget_all(self, user_id: UserId) -> bool:
        was_pending = self._deletions.is_pending(user_id, anyio.current_time())
        if not was_pending:
            await self._api.delete_all(user_id)
        if await self._has_pending_adds(user_id) or await self._api.has_any(user_id):
            self._deletions.reset(user_id)
            if was_pending:
                await self._api.delete_all(user_id)  # added after the first deletion
            return False
        return self._deletions.record_absence(user_id, anyio.current_time())

    async def _add_turn(self, turn: Turn) -> Add:
        metadata = {
            TURN_ID: turn.id,
            IMPORTANCE: DEFAULT_IMPORTANCE,
            CREATED_AT: turn.started_at.astimezone(UTC).isoformat(),
        }
        if self._infer:
            messages = [
                {"role": "user", "content": turn.user_message},
                {"role": "assistant", "content": turn.reply},
            ]
        else:
            messages = [{"role": "user", "content": turn.user_message[:MAX_FACT_CHARS]}]
        return await self._add(turn.user_id, turn.id, messages, metadata, infer=self._infer)

    async def _add(
        self, user_id: UserId, key: str, messages: Messages, metadata: Mapping[str, Any], *, infer: bool
    ) -> Add:
        self._deletions.reset(user_id)
        try:
            event_id = await self._api.add(user_id, messages, metadata, infer=infer)
        finally:
            self._deletions.reset(user_id)  # also if the response was lost: an absence seen meanwhile proves nothing
        add = self._pending_adds[key] = Add(user_id, event_id)
        return add

    async def _wait_for_event(self, key: str, add: Add) -> Event:
        event = await poll(lambda: self._finished_event(key, add))
        if event.failed:
            raise MemoryUnavailable("The memory platform failed to add the memory.")
        return event

    async def _finished_event(self, key: str, add: Add) -> Event | None:
        """Return the event of an add, or None while it is pending."""
        event = await self._api.event(add.event_id)
        if not event.finished:
            return None
        self._pending_adds.pop(key, None)
        return event

    async def _has_pending_adds(self, user_id: UserId) -> bool:
        return None in [await self._finished_event(key, add) for key, add in self._pending_adds.of(user_id)]

    async def _shown(self, user_id: UserId, memory_id: MemoryId, fact: str) -> tuple[Memory | None, Memory | None]:
        """Return a memory as a listing and as a search show it."""
        listed = await self._api.find_listed(user_id, memory_id)
        return listed, await self._api.find_searched(user_id, memory_id, fact)
