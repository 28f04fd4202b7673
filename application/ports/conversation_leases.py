"""Running one turn at a time per conversation.

A port of its own, separate from LiveTurns: with several workers the lease is a row in the database, whichever adapter
carries the event logs.
"""

from abc import abstractmethod
from typing import Protocol

from domain.conversation import ConversationId, UserId


class Lease(Protocol):
    """The exclusive right to run a turn in a conversation."""

    @abstractmethod
    async def release(self) -> None:
        """Admit the next waiting turn. Idempotent."""
        ...


class ConversationLeases(Protocol):
    """Running one turn at a time per conversation: first come, first served."""

    @abstractmethod
    async def acquire(self, user_id: UserId, conversation_id: ConversationId, *, wait: float) -> Lease:
        """Wait up to `wait` seconds for the conversation to be free. With 0, succeed or fail immediately.

        A caller that is cancelled while waiting leaves the queue.

        Raises:
            TurnInProgress: the conversation did not become free in time, or too many callers are waiting.
        """
        ...
