"""Keeping turns verbatim: a user's short-term memory."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, UserId
from domain.errors import ChatError
from domain.idempotency import IdempotencyKey
from domain.paging import Page
from domain.resent import SentMessage


class HistoryError(ChatError):
    """The store failed."""


class HistoryUnavailable(HistoryError):
    """Nothing was read or written; the same call may succeed later.

    `explanation` tells the operator why, in one sentence without secrets and users' text, e.g. "The disk is full."; it
    is empty if nothing is known. Clients see `detail` only.
    """

    code = "history_unavailable"
    title = "The history is unavailable"
    retryable = True

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None, explanation: str = "") -> None:
        super().__init__(detail, retry_after=retry_after)
        self.explanation = explanation


class HistoryLost(HistoryUnavailable):
    """The store's data was removed or replaced while it was in use: a write would be lost. Needs the operator."""


class HistoryWriteFailed(HistoryError):
    """A reply was generated but could not be stored."""

    code = "history_write_failed"
    title = "The reply could not be stored"
    retryable = True


KEY_RETENTION: Final = timedelta(hours=24)
"""How long an idempotency key names its turn."""


@dataclass(frozen=True, slots=True)
class TurnBegin:
    """Everything that is written together when a turn begins.

    The turn is leased to the caller for `lease`, renewed by `save_progress`. A turn whose lease has expired was
    abandoned by its worker. If there is a `key`, it names the turn for `key_retention`, or as long as the turn is
    stored if its client has chosen its id. With `takes_conversation`, the turn also takes the lease of its
    conversation, or keeps the one that it has.

    `retracts_from` is a turn of the same conversation, by its `Turn.id`. The new turn takes the place of that one and
    of all that follow it, because the user wants another reply or has edited a message: they are retracted, whatever
    becomes of the new turn. Not to be confused with `Superseded`, the interruption that ends a running turn.
    """

    turn: Turn
    lease: timedelta
    key: IdempotencyKey | None = None
    key_retention: timedelta = KEY_RETENTION
    takes_conversation: bool = False
    retracts_from: TurnId | None = None


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """Everything that is written together when a turn ends.

    With `remember`, the turn is also put into the memory outbox, unless it was retracted or its user's memories have
    been forgotten since the turn began.
    """

    turn: Turn
    remember: bool = False


class ReplyAddition(NamedTuple):
    """Text that a reply has gained. `start` is its place in the reply, in characters."""

    start: int
    text: str


class ConversationHistory(Protocol):
    """Keeping turns verbatim: a user's short-term memory.

    Turns are ordered by `begin`, across all conversations of a user. A turn's position never changes, and positions
    are not reused after a deletion. Text is returned exactly as it was given. A call that has returned is visible to
    every later call.

    A lookup by id takes the owner the turn has to belong to; None skips the check, for operators. Times are returned
    in UTC, to the microsecond. A limit is at least 1.

    Retracted turns (see `TurnBegin`) stay stored until they are deleted: `get`, `find` and `finish` return them, and
    `clear` counts them. They are no part of the context, of pages and of a conversation's number of turns. They leave
    the memory outbox, but facts that were extracted from them before stay.

    Methods run on the event loop and do not block it, e.g. a blocking driver runs in a thread. A cancelled call has
    taken effect completely or not at all.

    Every method raises:
        HistoryUnavailable: nothing was read or written.
    """

    @abstractmethod
    async def begin(self, begin: TurnBegin) -> Turn:
        """Store a turn that starts now, and return it. Durable on return: it survives if the process is killed.

        Only a store that is lost on restart by design, e.g. in memory, is exempt, here and in other methods.

        A key names one turn, however many calls use it at the same time. If it names a turn already, that turn is
        returned as stored, and nothing changes. A replaceable one is deleted, and the new turn begins, gets the key and
        takes over the turns that the other one has retracted. `retracts_from` may be that one.

        Raises:
            IdempotencyKeyReused: the key names a turn that was begun with another fingerprint, or the user has another
                turn with the chosen id.
            TurnNotFound: there is no turn `retracts_from` in the conversation.
            TurnInProgress: the turn was to take its conversation, but another one has it or waits for it.
        """
        ...

    @abstractmethod
    async def find(self, key: IdempotencyKey) -> Turn | None:
        """Return the turn that a key names; None if it names none, e.g. because the turn was deleted.

        Raises:
            IdempotencyKeyReused: it names a turn that was begun with another fingerprint.
        """
        ...

    @abstractmethod
    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        """Add text to the replies of running turns and renew their leases, all or none.

        Returns those of the turns that do not run any more, because they have ended or were deleted. They are left
        alone.

        An addition starts at the end of the text that earlier calls have added, and may be empty. A call that failed
        can be repeated, with the text since: what is stored from `start` on is replaced. A lease that has not used up
        a third of its time may be left as it is.
        """
        ...

    @abstractmethod
    async def finish(self, end: TurnEnd) -> Turn | None:
        """Store the end of a turn, and return the turn as stored. Durable on return.

        The end consists of the turn's reply, status, reason and usage; everything else was stored by `begin`. The
        reply is the whole text, and begins with the text that `save_progress` has stored.
        The first end stands: if the turn has ended already, that end is returned and nothing is written. Returns None,
        and writes nothing, if the turn was deleted or never began.
        """
        ...

    @abstractmethod
    async def finish_abandoned(self) -> int:
        """End the running turns whose lease has expired, as `worker_lost`, and return their number.

        Such a turn ends as `turn.ended_by(WorkerLost(), turn.reply)` and is not put into the memory outbox. In a store
        that a single process opens exclusively, the leases of earlier processes expire when it is opened.
        """
        ...

    @abstractmethod
    async def get(self, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn:
        """Return one turn, by its id or the one that its client has chosen.

        Only those of the owner are looked at, or, without one, those of users whose ids begin with `prefix`. If several
        of these users have a turn that is known by this id, the one with this `Turn.id` is returned, or else the one
        that started first.

        Raises:
            TurnNotFound: there is no such turn, or it belongs to another user.
        """
        ...

    @abstractmethod
    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        """Return the text of the newest finished turns of a conversation that have a reply, latest first.

        Includes interrupted turns. At most `limit`. Called before every reply, so it reads nothing else.
        """
        ...

    @abstractmethod
    async def messages(
        self, user_id: UserId, conversation_id: ConversationId, limit: int
    ) -> Sequence[tuple[TurnId, SentMessage]]:
        """Return the messages of the newest turns of a conversation, each with its `Turn.id`, oldest first.

        Includes running and failed turns. At most `limit`, and fewer if their text is long: see
        `domain.resent.within_size`. Of the replies it only tells whether there is text, so that a long conversation is
        read in milliseconds.
        """
        ...

    @abstractmethod
    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        """Return the newest turns before `cursor`, oldest first; of all conversations if none is given.

        At most `limit`, and fewer if their text is long. A cursor names a position: `domain.paging` has `parse_cursor`
        to check it, and `page_of_turns` to end the page and issue the next cursor. A cursor stays valid when turns are
        added or deleted.

        Raises:
            UnknownCursor: `cursor` does not have the form of one that was issued by a page.
        """
        ...

    @abstractmethod
    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        """Return the user's conversations, most recently used first, i.e. by the position of their latest turn.

        That position is what a cursor names; `domain.paging.page_of` makes the page.

        Raises:
            UnknownCursor: `cursor` does not have the form of one that was issued by a page.
        """
        ...

    @abstractmethod
    async def set_title(self, user_id: UserId, conversation_id: ConversationId, title: str | None) -> Conversation:
        """Set the title of a conversation, or reset it to the one from its first message. Returns the conversation.

        A title is deleted with its conversation, and a title that is replaced is erased from the store.

        Raises:
            ConversationNotFound: the user has no such conversation.
        """
        ...

    @abstractmethod
    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        """Delete the turns of one conversation, or of all if none is given, and return their number.

        Includes running turns: their `finish` returns None. Turns are removed from the memory outbox, too, and their
        keys name nothing any more. Nothing of a deleted turn comes back, and its text is erased from the store.
        """
        ...

    @abstractmethod
    async def check(self) -> None:
        """Return if the store responds.

        Raises:
            HistoryLost: its data was removed or replaced.
        """
        ...

    @abstractmethod
    async def probe_write(self) -> None:
        """Return if the store accepts writes, found out by a small durable write that changes nothing visible.

        Raises:
            HistoryLost: its data was removed or replaced.
        """
        ...
