"""History in the memory of one process: for trying things out, and the fake for tests."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from application.ports.history import ConversationHistory
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, TurnStatus, UserId
from domain.errors import TurnNotFound, WorkerLost
from domain.paging import Page, page_of, page_of_turns, place_of


class HistoryInMemory(ConversationHistory):
    """For keeping turns until the process ends.

    Every method lets other tasks run once, as a store behind a socket would, and does its work in one go after that.
    """

    def __init__(self) -> None:
        self._turns: dict[TurnId, Turn] = {}
        self._places: dict[UserId, dict[int, TurnId]] = {}
        self._last_place = 0

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

    async def finish(self, turn: Turn) -> bool:
        await asyncio.sleep(0)
        kept = self._turns.get(turn.id)
        if kept is None:
            return False
        if kept.status is TurnStatus.IN_PROGRESS:
            self._turns[turn.id] = turn
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
        if not places:
            self._places.pop(user_id, None)
        return len(doomed)

    async def check(self) -> None:
        await asyncio.sleep(0)

    def _newest_first(self, user_id: UserId, conversation_id: ConversationId | None) -> "Sequence[tuple[int, Turn]]":
        turns = [(n, self._turns[id]) for n, id in reversed(self._places.get(user_id, {}).items())]
        return [entry for entry in turns if conversation_id in (None, entry[1].conversation_id)]
