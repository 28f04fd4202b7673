"""Running one turn at a time per conversation.

A port of its own, separate from LiveTurns: with several workers the lease is a row in the database, whichever adapter
carries the event logs.
"""

from abc import abstractmethod
from typing import Protocol

from domain.conversation import ConversationId, TurnId, UserId


class Lease(Protocol):
    """The exclusive right to run a turn in a conversation."""

    kept_in_history: bool = False
    """The store of the history keeps the lease: the turn has to begin with `takes_conversation`."""

    @abstractmethod
    async def release(self, *, turn_ended: bool = False) -> None:
        """Admit the next waiting turn. Idempotent.

        With `turn_ended`, the history has stored the end of the turn. A lease that is kept in the same store ended in
        the same transaction, so nothing more needs to be written.

        Raises:
            HistoryUnavailable: the store that keeps the lease failed. The lease ends with its turn.
        """
        ...


class ConversationLeases(Protocol):
    """Running one turn at a time per conversation: first come, first served.

    Every method raises:
        HistoryUnavailable: the store that keeps the leases failed.
    """

    @abstractmethod
    async def acquire(
        self,
        turn_id: TurnId,
        user_id: UserId,
        conversation_id: ConversationId,
        *,
        wait: float,
        first: bool = False,
        tentative: bool = False,
    ) -> Lease:
        """Wait up to `wait` seconds for the conversation to be free. With 0, succeed or fail immediately.

        The turn has to begin within seconds, or else an adapter may give the lease to another one. `begin` then refuses
        the turn. With `first`, the turn waits ahead of those that wait without it. With `tentative`, a lease that is
        kept in the history may be returned without asking whether the conversation is free, because `begin` takes it
        or refuses the turn.

        A caller that is cancelled while waiting leaves the queue.

        Raises:
            TurnInProgress: the conversation did not become free in time, or too many callers are waiting.
        """
        ...

    @abstractmethod
    async def holder(self, user_id: UserId, conversation_id: ConversationId) -> TurnId | None:
        """Return the turn that has the lease, which may not have begun yet; None if the conversation is free."""
        ...
