"""For running one turn at a time in a conversation.

A port of its own although one process needs no more than a queue: with several, the lease is a row in the database,
whatever carries the running turns.
"""

from abc import abstractmethod
from typing import Protocol

from domain.conversation import ConversationId, UserId


class Lease(Protocol):
    """The right to run a turn in a conversation."""

    @abstractmethod
    async def release(self) -> None:
        """Let the next one in. Releasing again does nothing."""
        ...


class ConversationLeases(Protocol):
    """For running one turn at a time in a conversation: first come, first served."""

    @abstractmethod
    async def acquire(self, user_id: UserId, conversation_id: ConversationId, *, wait: float) -> Lease:
        """Wait for the conversation to be free, at most `wait` seconds. With 0, take it now or not at all.

        A caller that is cancelled while it waits leaves the queue.

        Raises:
            TurnInProgress: it did not become free in time, or too many are waiting already.
        """
        ...
