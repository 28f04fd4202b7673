"""Compares a history with a list of turns."""

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from application.ports.history import ConversationHistory, ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import Conversation, ConversationId, Turn, TurnId, TurnStatus, UserId
from domain.errors import Cancelled, ConversationNotFound, IdempotencyKeyReused, TurnNotFound, WorkerLost
from domain.idempotency import IdempotencyKey

T = TypeVar("T")

USERS = st.sampled_from([UserId("ada"), UserId("bob")])
CONVERSATIONS = st.sampled_from([ConversationId("home"), ConversationId("work")])
CHOSEN_IDS = st.sampled_from([TurnId(str(UUID(int=2**127 + n))) for n in range(2)])
KEYS = st.sampled_from(["one", "two"])
ADDITIONS = st.sampled_from(["", "Hi", "Hi, there"])
LIMITS = st.integers(1, 5)


class HistoryMachine(RuleBasedStateMachine):
    """Applies the same calls to a history and to a list, and compares the results.

    A subclass defines `opened`, as in `ConversationHistoryContract`; its `TestCase` runs the machine.
    """

    turns = Bundle("turns")
    cursors = Bundle("cursors")

    def __init__(self) -> None:
        super().__init__()
        self.model: list[Turn] = []
        self.begun = 0
        self.keys: dict[str, tuple[str, TurnId]] = {}
        """The fingerprint of each key that was used, and the turn that it named last."""
        self.retracted: dict[TurnId, TurnId] = {}
        """The turn that has retracted each, whether or not they are still stored."""
        self.titles: dict[tuple[UserId, ConversationId], str] = {}
        self.directory = TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.run(self.open())

    @abstractmethod
    def opened(self, directory: Path) -> AbstractAsyncContextManager[ConversationHistory]: ...

    async def open(self) -> None:
        self._stack = AsyncExitStack()
        self.history = await self._stack.enter_async_context(self.opened(Path(self.directory.name)))

    async def close(self) -> None:
        await self._stack.aclose()

    def teardown(self) -> None:
        self.run(self.close())
        self.runner.close()
        self.directory.cleanup()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @rule(
        target=turns,
        user=USERS,
        conversation=CONVERSATIONS,
        key=st.none() | KEYS,
        chosen=st.none() | CHOSEN_IDS,
        retracts=st.none() | st.integers(1, 3),
    )
    def begin(
        self, user: UserId, conversation: ConversationId, key: str | None, chosen: TurnId | None, retracts: int | None
    ) -> Turn:
        self.begun += 1
        moment = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.begun)
        turn_id = TurnId(str(UUID(int=self.begun)))
        turn = Turn(turn_id, user, conversation, moment, f"message {self.begun}", chosen_id=chosen)
        named = key and IdempotencyKey(f"{key} of {user}", conversation)
        if named and self._is_of_another_request(named):
            with pytest.raises(IdempotencyKeyReused):
                self.run(self.history.begin(TurnBegin(turn, timedelta(0), named)))
            return turn
        earlier = self._named(named) if named else None
        replaced = earlier if earlier is not None and earlier.status is TurnStatus.FAILED else None
        others = [kept for kept in self._of(user, conversation) if kept != replaced]
        first = others[-retracts] if retracts and len(others) >= retracts else None
        begin = TurnBegin(turn, timedelta(0), named or None, retracts_from=first.id if first else None)
        if earlier == replaced and self._chosen(chosen, user) not in (None, replaced):
            with pytest.raises(IdempotencyKeyReused):
                self.run(self.history.begin(begin))
            return turn
        if replaced is not None:
            self.model.remove(replaced)
            self.retracted = {id: turn.id if by == replaced.id else by for id, by in self.retracted.items()}
            earlier = None
        assert (earlier or turn) == self.run(self.history.begin(begin))
        if earlier is None:
            if first is not None:
                for one in others[others.index(first) :]:
                    self.retracted.setdefault(one.id, turn.id)
            self.model.append(turn)
            if named:
                self.keys[named.name] = named.fingerprint, turn.id
        return turn

    @rule(user=USERS, conversation=CONVERSATIONS, key=KEYS)
    def find(self, user: UserId, conversation: ConversationId, key: str) -> None:
        named = IdempotencyKey(f"{key} of {user}", conversation)
        if self._is_of_another_request(named):
            with pytest.raises(IdempotencyKeyReused):
                self.run(self.history.find(named))
        else:
            assert self._named(named) == self.run(self.history.find(named))

    @rule(progress=st.dictionaries(turns.map(lambda turn: turn.id), ADDITIONS, max_size=3), repeated=st.booleans())
    def save_progress(self, progress: dict[TurnId, str], repeated: bool) -> None:
        additions = {id: ReplyAddition(len(self._saved(id)), text) for id, text in progress.items()}
        for _ in range(1 + repeated):
            self.run(self.history.save_progress(additions, timedelta(0)))
        self.model = [
            replace(turn, reply=turn.reply + progress.get(turn.id, "")) if self._runs(turn) else turn
            for turn in self.model
        ]

    @rule(turn=turns, rest=ADDITIONS, completed=st.booleans())
    def finish(self, turn: Turn, rest: str, completed: bool) -> None:
        reply = self._saved(turn.id) + rest
        ended = turn.completed(reply, "length") if completed else turn.ended_by(Cancelled(), reply)
        self.model = [ended if kept.id == turn.id and self._runs(kept) else kept for kept in self.model]
        expected = next((kept for kept in self.model if kept.id == turn.id), None)
        assert expected == self.run(self.history.finish(TurnEnd(ended)))

    @rule()
    def finish_abandoned(self) -> None:
        assert sum(map(self._runs, self.model)) == self.run(self.history.finish_abandoned())
        self.model = [turn.ended_by(WorkerLost(), turn.reply) if self._runs(turn) else turn for turn in self.model]

    @rule(user=USERS, conversation=st.none() | CONVERSATIONS)
    def clear(self, user: UserId, conversation: ConversationId | None) -> None:
        doomed = self._of(user, conversation)
        assert len(doomed) == self.run(self.history.clear(user, conversation))
        self.model = [turn for turn in self.model if turn not in doomed]
        for turn in doomed:
            self.titles.pop((user, turn.conversation_id), None)

    @rule(user=USERS, conversation=CONVERSATIONS, title=st.sampled_from(["Plans", "Work", None]))
    def set_title(self, user: UserId, conversation: ConversationId, title: str | None) -> None:
        if not self._of(user, conversation):
            with pytest.raises(ConversationNotFound):
                self.run(self.history.set_title(user, conversation, title))
            return
        self.titles[user, conversation] = title or ""
        summary = self.run(self.history.set_title(user, conversation, title))
        assert [summary] == [one for one in self._outlines(user) if one.id == conversation]

    @rule(user=st.none() | USERS, chosen=CHOSEN_IDS)
    def get_by_chosen_id(self, user: UserId | None, chosen: TurnId) -> None:
        assert self._chosen(chosen, user) == self.run(self._get(chosen, user))

    @rule(turn=turns)
    def get(self, turn: Turn) -> None:
        expected = next((kept for kept in self.model if kept.id == turn.id), None)
        assert expected == self.run(self._get(turn.id))

    @rule(user=USERS, conversation=CONVERSATIONS, limit=LIMITS)
    def latest(self, user: UserId, conversation: ConversationId, limit: int) -> None:
        told = [turn.exchange for turn in self._shown(user, conversation) if turn.reply and not self._runs(turn)]
        assert told[::-1][:limit] == list(self.run(self.history.latest(user, conversation, limit)))

    @rule(user=USERS, conversation=st.none() | CONVERSATIONS, limit=LIMITS)
    def pages(self, user: UserId, conversation: ConversationId | None, limit: int) -> None:
        expected = self._shown(user, conversation)
        found: list[Turn] = []
        cursor: str | None = None
        while True:
            page = self.run(self.history.page(user, conversation, limit, cursor))
            found = [*page.items, *found]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert limit == len(page.items)
        assert expected == found

    @rule(user=USERS, limit=LIMITS)
    def conversations(self, user: UserId, limit: int) -> None:
        found: list[Conversation] = []
        cursor: str | None = None
        while True:
            page = self.run(self.history.conversations(user, limit, cursor))
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        assert self._outlines(user) == found

    @rule(target=cursors, user=USERS, limit=LIMITS)
    def keep_a_cursor(self, user: UserId, limit: int) -> tuple[UserId, str | None, int]:
        return user, self.run(self.history.page(user, None, limit, None)).next_cursor, self.begun

    @rule(kept=cursors)
    def an_old_cursor_shows_no_newer_turns(self, kept: tuple[UserId, str | None, int]) -> None:
        user, cursor, begun = kept
        if cursor is not None:
            page = self.run(self.history.page(user, None, 100, cursor))
            assert all(UUID(turn.id).int <= begun for turn in page.items)

    async def _get(self, turn_id: TurnId, owner: UserId | None = None) -> Turn | None:
        try:
            return await self.history.get(turn_id, owner)
        except TurnNotFound:
            return None

    def _named(self, key: IdempotencyKey) -> Turn | None:
        _, turn_id = self.keys.get(key.name, ("", ""))
        return next((turn for turn in self.model if turn.id == turn_id), None)

    def _is_of_another_request(self, key: IdempotencyKey) -> bool:
        return self._named(key) is not None and self.keys[key.name][0] != key.fingerprint

    def _saved(self, turn_id: TurnId) -> str:
        return next((turn.reply for turn in self.model if turn.id == turn_id), "")

    def _of(self, user: UserId, conversation: ConversationId | None) -> list[Turn]:
        return [turn for turn in self.model if turn.user_id == user and conversation in (None, turn.conversation_id)]

    def _shown(self, user: UserId, conversation: ConversationId | None) -> list[Turn]:
        return [turn for turn in self._of(user, conversation) if turn.id not in self.retracted]

    def _chosen(self, chosen: TurnId | None, user: UserId | None) -> Turn | None:
        known = [turn for turn in self.model if turn.chosen_id == chosen and user in (None, turn.user_id)]
        return known[0] if chosen and known else None

    def _outlines(self, user: UserId) -> list[Conversation]:
        latest_first = dict.fromkeys(turn.conversation_id for turn in reversed(self._of(user, None)))
        return [
            Conversation(
                user,
                id,
                self._of(user, id)[0].started_at,
                shown[-1].started_at,
                len(shown),
                self.titles.get((user, id)) or shown[0].user_message,
            )
            for id in latest_first
            for shown in [self._shown(user, id)]
        ]

    @staticmethod
    def _runs(turn: Turn) -> bool:
        return turn.status is TurnStatus.IN_PROGRESS


class DurableHistoryMachine(HistoryMachine):
    """Closes the history and opens it again, too."""

    @rule()
    def reopen(self) -> None:
        self.run(self.close())
        self.run(self.open())
