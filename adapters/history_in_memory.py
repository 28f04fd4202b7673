"""Turns in the memory of one process, with the memory outbox: for trying things out, and as a fake in tests."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from adapters.clock import utc_now
from adapters.memory_outbox_in_memory import MemoryOutboxInMemory
from application.ports.history import ConversationHistory, ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, TurnStatus, UserId
from domain.errors import ConversationNotFound, IdempotencyKeyReused, TurnNotFound, WorkerLost
from domain.idempotency import IdempotencyKey
from domain.paging import Page, page_of, page_of_turns, parse_cursor
from domain.resent import SentMessage, within_size
from domain.title import title_of

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _NamedTurn:
    """The turn that an idempotency key names, until `expires_at`."""

    turn_id: TurnId
    fingerprint: str
    expires_at: datetime


class HistoryInMemory(MemoryOutboxInMemory, ConversationHistory):
    """Keeps turns, and the memory outbox, until the process ends. `now` is the clock of leases and delays.

    Every method first lets other tasks run, as a store behind a socket would, and then takes effect at once.
    """

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(now)
        self._turns: dict[TurnId, Turn] = {}
        self._leases: dict[TurnId, datetime] = {}
        self._epochs_at_begin: dict[TurnId, int] = {}
        self._positions: dict[UserId, dict[int, TurnId]] = {}
        self._last_position = 0
        self._retracted_by: dict[TurnId, TurnId] = {}
        self._titles: dict[tuple[UserId, ConversationId], str] = {}
        self._chosen: dict[TurnId, dict[UserId, TurnId]] = {}
        """The turns with each id that clients have chosen."""
        self._named: dict[str, _NamedTurn] = {}
        self._names: dict[TurnId, str] = {}
        self._expiring: dict[str, None] = {}
        """The names that expire, oldest first."""
        self._epochs: dict[UserId, int] = {}

    async def begin(self, begin: TurnBegin) -> Turn:
        await asyncio.sleep(0)
        turn = begin.turn
        earlier = None if begin.key is None else self._find(begin.key)
        if earlier is not None and not earlier.is_replaceable:
            return earlier
        if turn.chosen_id is not None:
            known = self._look_up(turn.chosen_id, turn.user_id)
            if known is not None and (earlier is None or known.id != earlier.id):
                raise IdempotencyKeyReused
        retracted = [] if begin.retracts_from is None else self._from(turn, begin.retracts_from, earlier)
        if earlier is not None:
            retracted += [self._turns[id] for id, by in self._retracted_by.items() if by == earlier.id]
            positions = self._positions[turn.user_id]
            self._delete(earlier, next(n for n, id in positions.items() if id == earlier.id))
        for one in retracted:
            self._retracted_by[one.id] = turn.id
            self.withdraw(one.id)
        if begin.key is not None:
            self._name(turn, begin.key, begin.key_retention)
        if turn.chosen_id is not None:
            self._chosen.setdefault(turn.chosen_id, {})[turn.user_id] = turn.id
        self._last_position += 1
        self._turns[turn.id] = turn
        self._positions.setdefault(turn.user_id, {})[self._last_position] = turn.id
        self._leases[turn.id] = self._now() + begin.lease
        self._epochs_at_begin[turn.id] = self._epochs.get(turn.user_id, 0)
        return turn

    def _from(self, turn: Turn, first: TurnId, replaced: Turn | None) -> list[Turn]:
        """Return the turns of the turn's conversation from `first` on that are neither retracted nor replaced."""
        stored = [one for _, one in reversed(self._newest_first(turn.user_id, turn.conversation_id))]
        ids = [one.id for one in stored]
        if first not in ids:
            raise TurnNotFound
        return [one for one in stored[ids.index(first) :] if one != replaced and one.id not in self._retracted_by]

    def _name(self, turn: Turn, key: IdempotencyKey, retention: timedelta) -> None:
        for name in list(islice(self._expiring, 2)):  # the oldest, so that no call removes many
            if self._named[name].expires_at <= self._now():
                self._forget_name(self._named[name].turn_id)
        if (expired := self._named.get(key.name)) is not None:
            self._forget_name(expired.turn_id)
        expires_at = self._now() + retention if turn.chosen_id is None else _NEVER
        self._named[key.name] = _NamedTurn(turn.id, key.fingerprint, expires_at)
        self._names[turn.id] = key.name
        if turn.chosen_id is None:
            self._expiring[key.name] = None

    def _forget_name(self, turn_id: TurnId) -> None:
        if (name := self._names.pop(turn_id, None)) is not None:
            del self._named[name]
            self._expiring.pop(name, None)

    async def find(self, key: IdempotencyKey) -> Turn | None:
        await asyncio.sleep(0)
        return self._find(key)

    def _find(self, key: IdempotencyKey) -> Turn | None:
        named = self._named.get(key.name)
        if named is None or named.expires_at <= self._now():
            return None
        if named.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused
        return self._turns[named.turn_id]

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        await asyncio.sleep(0)
        for turn_id, (start, text) in additions.items():
            turn = self._turns.get(turn_id)
            if turn is not None and turn.status is TurnStatus.IN_PROGRESS:
                if text:
                    self._turns[turn_id] = replace(turn, reply=turn.reply[:start] + text)
                self._leases[turn_id] = self._now() + lease
        return additions.keys() - self._leases.keys()

    async def finish(self, end: TurnEnd) -> Turn | None:
        await asyncio.sleep(0)
        turn = end.turn
        stored = self._turns.get(turn.id)
        if stored is None or stored.status is not TurnStatus.IN_PROGRESS:
            return stored
        self._end(turn)
        is_of_epoch = self._epochs_at_begin[turn.id] == self._epochs.get(turn.user_id, 0)
        if end.remember and is_of_epoch and turn.id not in self._retracted_by:
            self.enqueue(turn)
        return turn

    async def finish_abandoned(self) -> int:
        await asyncio.sleep(0)
        now = self._now()
        abandoned = [self._turns[id] for id, expires_at in self._leases.items() if expires_at <= now]
        for turn in abandoned:
            self._end(turn.ended_by(WorkerLost(), turn.reply))
        return len(abandoned)

    def _end(self, turn: Turn) -> None:
        self._turns[turn.id] = turn
        del self._leases[turn.id]

    async def get(self, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn:
        await asyncio.sleep(0)
        turn = self._look_up(turn_id, owner, prefix)
        if turn is None:
            raise TurnNotFound
        return turn

    def _look_up(self, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn | None:
        def is_reached(user: UserId) -> bool:
            return user.startswith(prefix) if owner is None else user == owner

        turn = self._turns.get(turn_id)
        if turn is not None and is_reached(turn.user_id):
            return turn
        chosen = [self._turns[id] for user, id in self._chosen.get(turn_id, {}).items() if is_reached(user)]
        return min(chosen, key=lambda turn: turn.started_at, default=None)

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        await asyncio.sleep(0)
        found: list[Exchange] = []
        for _, turn in self._shown(user_id, conversation_id):
            if len(found) >= limit:
                break
            if turn.reply and turn.status is not TurnStatus.IN_PROGRESS:
                found.append(turn.exchange)
        return found

    async def messages(
        self, user_id: UserId, conversation_id: ConversationId, limit: int
    ) -> Sequence[tuple[TurnId, SentMessage]]:
        await asyncio.sleep(0)
        newest = self._shown(user_id, conversation_id)[:limit]
        return within_size((turn.id, SentMessage(turn.user_message, bool(turn.reply))) for _, turn in newest)

    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        await asyncio.sleep(0)
        before = parse_cursor(cursor)
        return page_of_turns(((n, turn) for n, turn in self._shown(user_id, conversation_id) if n < before), limit)

    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        await asyncio.sleep(0)
        before = parse_cursor(cursor)
        found: dict[ConversationId, list[tuple[int, Turn]]] = {}
        for n, turn in self._newest_first(user_id, None):
            found.setdefault(turn.conversation_id, []).append((n, turn))
        latest_first = ((turns[0][0], self._summary([turn for _, turn in turns])) for turns in found.values())
        return page_of((entry for entry in latest_first if entry[0] < before), limit)

    def _summary(self, newest_first: Sequence[Turn]) -> Conversation:
        latest, first = newest_first[0], newest_first[-1]
        shown = [turn for turn in newest_first if turn.id not in self._retracted_by]
        user_id, id = latest.user_id, latest.conversation_id
        title = self._titles.get((user_id, id)) or title_of(shown[-1].user_message)
        return Conversation(user_id, id, first.started_at, latest.started_at, len(shown), title)

    async def set_title(self, user_id: UserId, conversation_id: ConversationId, title: str | None) -> Conversation:
        await asyncio.sleep(0)
        turns = [turn for _, turn in self._newest_first(user_id, conversation_id)]
        if not turns:
            raise ConversationNotFound
        if title is None:
            self._titles.pop((user_id, conversation_id), None)
        else:
            self._titles[user_id, conversation_id] = title
        return self._summary(turns)

    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        await asyncio.sleep(0)
        deleted = list(self._newest_first(user_id, conversation_id))
        for n, turn in deleted:
            self._delete(turn, n)
            self._titles.pop((user_id, turn.conversation_id), None)
        if not self._positions.get(user_id):
            self._positions.pop(user_id, None)
            self._epochs.pop(user_id, None)
        return len(deleted)

    def _delete(self, turn: Turn, position: int) -> None:
        del self._turns[turn.id], self._positions[turn.user_id][position], self._epochs_at_begin[turn.id]
        self._leases.pop(turn.id, None)
        self.withdraw(turn.id)
        self._retracted_by.pop(turn.id, None)
        self._forget_name(turn.id)
        if turn.chosen_id is not None:
            del self._chosen[turn.chosen_id][turn.user_id]
            if not self._chosen[turn.chosen_id]:
                del self._chosen[turn.chosen_id]

    async def check(self) -> None:
        await asyncio.sleep(0)

    async def probe_write(self) -> None:
        await asyncio.sleep(0)

    async def begin_forgetting(self, user_id: UserId) -> None:
        await super().begin_forgetting(user_id)  # lets other tasks run only before it takes effect
        if user_id in self._positions:
            self._epochs[user_id] = self._epochs.get(user_id, 0) + 1

    def _newest_first(self, user_id: UserId, conversation_id: ConversationId | None) -> Sequence[tuple[int, Turn]]:
        turns = [(n, self._turns[id]) for n, id in reversed(self._positions.get(user_id, {}).items())]
        return [entry for entry in turns if conversation_id in (None, entry[1].conversation_id)]

    def _shown(self, user_id: UserId, conversation_id: ConversationId | None) -> Sequence[tuple[int, Turn]]:
        turns = self._newest_first(user_id, conversation_id)
        return [(n, turn) for n, turn in turns if turn.id not in self._retracted_by]
