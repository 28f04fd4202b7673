"""For having long-term memory follow what happened, whatever breaks in between.

What is still to be done is kept with the turns and changes in the same transactions as they do.
"""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.conversation import Turn, TurnId, UserId


@dataclass(frozen=True, slots=True)
class Remembering:
    """A completed turn that is to be remembered; `attempts` have failed so far."""

    turn: Turn
    attempts: int


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Turns that are still to be remembered, turns that were given up, users that are still to be forgotten."""

    pending: int
    dead: int
    forgetting: int


class MemoryOutbox(Protocol):
    """For having long-term memory follow what happened, whatever breaks in between.

    `ConversationHistory.finish` puts turns in. One process at a time works it off.

    Every method raises:
        HistoryUnavailable: nothing was read or written.
    """

    @abstractmethod
    async def due(self, now: datetime, limit: int, *, besides: Collection[UserId] = ()) -> Sequence[Remembering]:
        """The turns whose time has come, the one that waits longest first; none of the users `besides`.

        Not those that were given up, and not those of users who are being forgotten: what is remembered meanwhile
        would be lost with the rest.
        """
        ...

    @abstractmethod
    async def settle(self, turn_id: TurnId) -> None:
        """A turn has been remembered."""
        ...

    @abstractmethod
    async def postpone(self, turn_id: TurnId, until: datetime) -> None:
        """Remembering a turn failed; it is due again at `until`."""
        ...

    @abstractmethod
    async def give_up(self, turn_id: TurnId) -> None:
        """Remembering a turn failed for good; it is only counted from now on, until it is deleted."""
        ...

    @abstractmethod
    async def begin_forgetting(self, user_id: UserId) -> None:
        """A user is to be forgotten: none of their turns so far is to be remembered any more. Durable on return."""
        ...

    @abstractmethod
    async def end_forgetting(self, user_id: UserId) -> None:
        """A user has been forgotten."""
        ...

    @abstractmethod
    async def is_forgetting(self, user_id: UserId) -> bool:
        """Whether a user is still to be forgotten."""
        ...

    @abstractmethod
    async def forgetting(self, limit: int) -> Sequence[UserId]:
        """Users who are still to be forgotten, `limit` at most."""
        ...

    @abstractmethod
    async def counts(self) -> OutboxCounts:
        """How much there is to do."""
        ...
