"""History and memory outbox in the memory of one process: for trying things out, and the fake for tests."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from application.ports.history import ConversationHistory
from application.ports.memory_outbox import MemoryOutbox, OutboxCounts, Remembering
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, TurnStatus, UserId
from domain.errors import TurnNotFound, WorkerLost
from domain.paging import Page, page_of, page_of_turns, place_of


class _Due(NamedTuple):
    """When a turn is to be remembered, None where it was given up, and how often that has failed."""

    at: datetime | None
    attempts: int


class HistoryInMemory(ConversationHistory, MemoryOutbox):
    """For keeping turns until the process ends, and what long-term memory has still to do with them.

    Every method lets other tasks run once, as a store behind a socket would, and does its work in one go after that.
    """

    def __init__(self) -> None:
        self._turns: dict[TurnId, Turn] = {}
        self._places: dict[UserId, dict[int, TurnId]] = {}
        self._last_place = 0
        self._remembering: dict[TurnId, _Due] = {}
        self._forgetting: dict[UserId, None] = {}

    async def begin(self, turn: Turn) -> None:
        await asyncio.sleep(0)
        self._last_place += 1
        self._turns[turn.id] = turn
        self._places.setdefault(turn.user_id, {})[self._last_place] = turn.id

    async def save_progress(self, replies: Mapping[TurnId, str]) -> None:
        await asyncio.sleep(0)
        for turn_id, reply in replies.items():
            turn = self._turns.get(turn_id)
            if turn is not None and turn.status is TurnStatus.IN_PROGRESS:
                self._turns[turn_id] = replace(turn, reply=reply)

    async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
        await asyncio.sleep(0)
        kept = self._turns.get(turn.id)
        if kept is None:
            return False
        if kept.status is TurnStatus.IN_PROGRESS:
            self._turns[turn.id] = turn
            if remember_at is not None:
                self._remembering[turn.id] = _Due(remember_at, 0)
        return True

    async def finish_abandoned(self) -> int:
        await asyncio.sleep(0)
        abandoned = [turn for turn in self._turns.values() if turn.status is TurnStatus.IN_PROGRESS]
        self._turns |= {turn.id: turn.cut(turn.reply, WorkerLost()) for turn in abandoned}
        return len(abandoned)

    async def get(self, turn_id: TurnId) -> Turn:
        await asyncio.sleep(0)
        try:
            return self._turns[turn_id]
        except KeyError:
            raise TurnNotFound from None

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        await asyncio.sleep(0)
        found: list[Exchange] = []
        for _, turn in self._newest_first(user_id, conversation_id):
            if len(found) >= limit:
                break
            if turn.reply and turn.status is not TurnStatus.IN_PROGRESS:
                found.append(turn.exchange)
        return found

    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        await asyncio.sleep(0)
        before = place_of(cursor)
        return page_of_turns(
            ((n, turn) for n, turn in self._newest_first(user_id, conversation_id) if n < before), limit
        )

    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        await asyncio.sleep(0)
        before = place_of(cursor)
        found: dict[ConversationId, tuple[int, Conversation]] = {}
        for n, turn in reversed(list(self._newest_first(user_id, None))):
            began, id = turn.started_at, turn.conversation_id
            created, count = (found[id][1].created_at, found[id][1].turns) if id in found else (began, 0)
            found[id] = n, Conversation(user_id, id, created, began, count + 1)
        latest_first = sorted(found.values(), key=lambda entry: entry[0], reverse=True)
        return page_of((entry for entry in latest_first if entry[0] < before), limit)

    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        await asyncio.sleep(0)
        doomed = list(self._newest_first(user_id, conversation_id))
        places = self._places.get(user_id, {})
        for n, turn in doomed:
            del self._turns[turn.id], places[n]
            self._remembering.pop(turn.id, None)
        if not places:
            self._places.pop(user_id, None)
        return len(doomed)

    async def check(self) -> None:
        await asyncio.sleep(0)

    async def due(self, now: datetime, limit: int, *, besides: Collection[UserId] = ()) -> Sequence[Remembering]:
        await asyncio.sleep(0)
        left_out = {*besides, *self._forgetting}
        waiting = [
            (due.at, Remembering(self._turns[id], due.attempts))
            for id, due in self._remembering.items()
            if due.at is not None and due.at <= now and self._turns[id].user_id not in left_out
        ]
        return [job for _, job in sorted(waiting, key=lambda entry: entry[0])][:limit]

    async def settle(self, turn_id: TurnId) -> None:
        await asyncio.sleep(0)
        self._remembering.pop(turn_id, None)

    async def postpone(self, turn_id: TurnId, until: datetime) -> None:
        await self._fail(turn_id, until)

    async def give_up(self, turn_id: TurnId) -> None:
        await self._fail(turn_id, None)

    async def _fail(self, turn_id: TurnId, until: datetime | None) -> None:
        await asyncio.sleep(0)
        if turn_id in self._remembering:
            self._remembering[turn_id] = _Due(until, self._remembering[turn_id].attempts + 1)

    async def begin_forgetting(self, user_id: UserId) -> None:
        await asyncio.sleep(0)
        self._forgetting[user_id] = None
        for turn_id in self._places.get(user_id, {}).values():
            self._remembering.pop(turn_id, None)

    async def end_forgetting(self, user_id: UserId) -> None:
        await asyncio.sleep(0)
        self._forgetting.pop(user_id, None)

    async def is_forgetting(self, user_id: UserId) -> bool:
        await asyncio.sleep(0)
        return user_id in self._forgetting

    async def forgetting(self, limit: int) -> Sequence[UserId]:
        await asyncio.sleep(0)
        return sorted(self._forgetting)[:limit]

    async def counts(self) -> OutboxCounts:
        await asyncio.sleep(0)
        dead = sum(due.at is None for due in self._remembering.values())
        return OutboxCounts(len(self._remembering) - dead, dead, len(self._forgetting))

    def _newest_first(self, user_id: UserId, conversation_id: ConversationId | None) -> "Sequence[tuple[int, Turn]]":
        turns = [(n, self._turns[id]) for n, id in reversed(self._places.get(user_id, {}).items())]
        return [entry for entry in turns if conversation_id in (None, entry[1].conversation_id)]
