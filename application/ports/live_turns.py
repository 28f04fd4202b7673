"""Following in-flight turns: each has an append-only event log that any number of readers follow."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol

from domain.conversation import ConversationId, Turn, TurnId, Usage, UserId
from domain.errors import Cancelled, ChatError, Failure, Interruption

Stop = Callable[[Interruption], None]
"""Ends a running turn. Called on the event loop, any number of times; never blocks."""


class LiveTurnsUnavailable(ChatError):
    """The event log cannot be read or written. The turn itself is not affected: its text is in the history."""

    code = "live_turns_unavailable"
    title = "The turn cannot be followed at the moment; its text is in the history"
    retryable = True


class End(NamedTuple):
    """The last event of a log: how the turn ended, as stored in the history.

    Exactly one of `finish_reason` and `failure` is None. `usage` is None if the model never answered.
    """

    finish_reason: str | None
    failure: Failure | None
    usage: Usage | None = None


DELETED: Final = End(None, Failure.of(Cancelled("The turn was deleted.")))
"""The end of a log that was discarded, even if the turn had ended otherwise: its readers may lack some of the text."""


class Batch(NamedTuple):
    """Consecutive events of a log.

    Deltas are numbered from 1 without gaps, and the end has the number after the last delta. `first` is the number of
    the first event in this batch. `accepted` says that the model has started to answer, in this batch or before; that
    event has no number.
    """

    first: int
    deltas: Sequence[str]
    accepted: bool
    end: End | None


class Reader(AbstractAsyncContextManager["Reader"], Protocol):
    """One reader of a log. It counts as present until its context exits.

    A context that exits with LiveTurnsUnavailable has lost its reader: that is not a reader who leaves, so it does not
    stop the turn.
    """

    @property
    def is_remote(self) -> bool:
        """Whether another process runs the turn. If that dies, the log ends only some time after the turn's lease."""
        return False

    @abstractmethod
    async def next(self, wait: float) -> Batch | None:
        """Return the events appended since the last call, or wait up to `wait` seconds for the next one.

        If there are many, the next calls return the rest. Returns None if nothing was appended in time. Returns the end
        again if called after the end. If the turn's log was discarded, only `DELETED` is returned, once the turn has
        ended.

        Raises:
            LiveTurnsUnavailable: the log cannot be read.
        """
        ...


class EventLog(Protocol):
    """The writing side of a log.

    `accept` and `append` only buffer, so that they neither wait nor leave text half written when a turn is cancelled.
    An adapter whose readers are in other processes flushes in the background. All three methods raise
    LiveTurnsUnavailable if the log cannot record further events; the writer then calls `abandon` and writes no more.
    """

    @abstractmethod
    def accept(self) -> None:
        """Record that the model has started to answer."""
        ...

    @abstractmethod
    def append(self, deltas: Sequence[str]) -> None:
        """Append one event per delta."""
        ...

    @abstractmethod
    async def close(self, end: End) -> None:
        """Append the last event, and return when all readers can receive it."""
        ...

    @abstractmethod
    def abandon(self) -> None:
        """End the log for its readers with `live_turns_unavailable`; the turn itself goes on, and can be stopped.

        Takes effect immediately for readers in this process. Never raises; does nothing after `close`.
        """
        ...


class LiveTurns(Protocol):
    """Following in-flight turns: each has an append-only event log that any number of readers follow.

    A log is kept for a while after its end, so that a reader can return. It is not the history: losing it loses no
    finished turn.

    Every method raises:
        LiveTurnsUnavailable: the logs cannot be read or written at the moment.
    """

    @abstractmethod
    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        """Create the log of a turn that runs in this process.

        `stop` is called with the given interruption when a stop is requested and, if `stop_when_left`, with
        `ClientDisconnected` when the last reader has left.
        """
        ...

    @abstractmethod
    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        """Return a reader of the events numbered above `after`. It counts as present from now on.

        `owner` is the user the turn has to belong to; None skips the check, for operators.

        Raises:
            StreamExpired: the log is not kept, has outgrown its limits, or belongs to another user.
        """
        ...

    @abstractmethod
    async def stop(
        self,
        turn_id: TurnId,
        owner: UserId | None,
        interruption: Interruption = Cancelled(),  # noqa: B008  # immutable
    ) -> None:
        """Stop the turn because of `interruption`, and wait until it has ended.

        Returns immediately if it is not running, or if it does not belong to `owner` (None skips that check).
        """
        ...

    @abstractmethod
    async def stop_when_left(self, turn_id: TurnId, owner: UserId | None) -> None:
        """From now on, stop a turn when its last reader has left, as if it had been opened with `stop_when_left`.

        It is stopped now if it has no reader. Like `stop`, it does nothing if the turn is not running or does not
        belong to `owner`.
        """
        ...

    @abstractmethod
    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        """Delete the logs of one conversation, or of all if none is given. Running turns are stopped.

        No reader can join a discarded log; readers already present receive nothing more but `DELETED` as its end. With
        several processes, this holds for the readers of all when it returns. It does not wait for one that has died.

        Raises:
            LiveTurnsUnavailable: also if another process may still have readers. Discarding again is safe.
        """
        ...
