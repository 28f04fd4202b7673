"""For keeping turns: a user's short-term memory, verbatim."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, UserId
from domain.errors import ChatError
from domain.paging import Page


class HistoryError(ChatError):
    """The store let us down."""


class HistoryUnavailable(HistoryError):
    """Nothing was read or written; the same again may work later."""

    code = "history_unavailable"
    title = "The history can not be read or written at the moment"
    retryable = True


class HistoryWriteFailed(HistoryError):
    """A reply was generated and could not be stored."""

    code = "history_write_failed"
    title = "The reply could not be stored"
    retryable = True


class ConversationHistory(Protocol):
    """For keeping turns: a user's short-term memory, verbatim.

    Turns have a place in the order of their `begin`, across the user's conversations, that never changes. Every
    text comes back as it was given. What a method has returned from is seen by every later call.

    Every method raises:
        HistoryUnavailable: nothing was read or written.
    """

    @abstractmethod
    async def begin(self, turn: Turn) -> None:
        """Keep a turn that starts now. Durable on return, as the store understands it."""
        ...

    @abstractmethod
    async def save_progress(self, replies: Mapping[TurnId, str]) -> None:
        """Keep the text so far of running turns, all or none. Turns that ended or were deleted stay as they are."""
        ...

    @abstractmethod
    async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
        """Keep how a turn ended. Durable on return.

        Where `remember_at` is given, the turn is in the memory outbox, due from then on, exactly if this kept its end.
        False, and nothing is kept, where the turn has been deleted. Finishing again changes nothing: the first end
        stands.
        """
        ...

    @abstractmethod
    async def finish_abandoned(self) -> int:
        """End the turns that a dead process left running, as `worker_lost`; how many there were.

        Called at start-up, before the first `begin`.
        """
        ...

    @abstractmethod
    async def get(self, turn_id: TurnId) -> Turn:
        """One turn.

        Raises:
            TurnNotFound: there is none with this id.
        """
        ...

    @abstractmethod
    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        """What was said in the newest finished turns with reply text of one conversation, latest first.

        At most `limit` of them. Read before every reply, so it brings no more than that.
        """
        ...

    @abstractmethod
    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        """The newest turns before `cursor`, oldest first; of all conversations where none is named.

        At most `limit`, and fewer where their text is long: see `domain.paging`.

        Raises:
            UnknownCursor: `cursor` is not one that a page gave.
        """
        ...

    @abstractmethod
    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        """The user's conversations, the one with the latest turn first.

        Raises:
            UnknownCursor: `cursor` is not one that a page gave.
        """
        ...

    @abstractmethod
    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        """Delete the turns of one conversation, or of all where none is named; how many there were.

        Turns that are running go too: their `finish` returns False. Nothing of theirs comes back.
        """
        ...

    @abstractmethod
    async def check(self) -> None:
        """Return if the store answers."""
        ...
