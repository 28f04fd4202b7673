"""For following running turns: each is an append-only log of events that any number of readers follow."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import ChatError, Interruption

Stop = Callable[[Interruption], None]
"""Ends a running turn from outside; called on the event loop, any number of times, never blocks."""


@dataclass(frozen=True, slots=True)
class End:
    """How a turn ended, and its last event. Exactly one of the two is None."""

    finish_reason: str | None
    error: ChatError | None


class Batch(NamedTuple):
    """Consecutive events of a log.

    Events are numbered from 1 without gaps: the texts first, then the end. `first` is the number of the first event
    here. A batch with neither texts nor end says that the log has been silent.
    """

    first: int
    texts: Sequence[str]
    end: End | None


class Reader(AbstractAsyncContextManager["Reader"], Protocol):
    """One follower of a log, present until it leaves the context."""

    @abstractmethod
    async def next(self, silence: float) -> Batch:
        """What has gathered since the last call; waits for something to come, at most `silence` seconds.

        After the end, the end again.
        """
        ...


class TurnLog(Protocol):
    """The writer's side of a log."""

    @abstractmethod
    async def append(self, texts: Sequence[str]) -> None:
        """Add one event for each text."""
        ...

    @abstractmethod
    async def close(self, end: End) -> None:
        """Add the last event. Nothing may be appended after it."""
        ...


class LiveTurns(Protocol):
    """For following running turns: each is an append-only log of events that any number of readers follow.

    Logs are kept for a while after their end, so that a reader can come back; they are not history, and losing them
    loses no finished turn.
    """

    @abstractmethod
    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> TurnLog:
        """Start the log of a turn that runs in this process.

        `stop` is called with `Cancelled` when anyone asks for it, and, with `stop_when_left`, with
        `ClientDisconnected` when the last reader has left.
        """
        ...

    @abstractmethod
    async def join(self, turn_id: TurnId, after: int = 0) -> Reader:
        """Follow a log from the event behind number `after`.

        The reader counts as present from now on.

        Raises:
            StreamExpired: the log is not kept, or no longer from its beginning.
        """
        ...

    @abstractmethod
    async def stop(self, turn_id: TurnId) -> None:
        """Have the turn ended by whoever runs it; returns when it has ended, at once where it does not run."""
        ...

    @abstractmethod
    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        """Forget the logs of a user or of one conversation: the running ones are stopped, no new reader may join."""
        ...
