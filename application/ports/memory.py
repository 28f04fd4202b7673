"""For remembering users across conversations: distilled facts, recalled by what is being said."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from domain.conversation import Turn, UserId
from domain.errors import ChatError
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page


class LongTermMemoryError(ChatError):
    """Long-term memory let us down. A chat goes on without it."""


class MemoryUnavailable(LongTermMemoryError):
    """Whether anything was written is not known; the same again may work later."""

    code = "memory_unavailable"
    title = "Long-term memory can not be used at the moment"
    retryable = True


class MemoryRefused(LongTermMemoryError):
    """The service behind it will not have the request as it is; the same again would fare no better."""

    code = "memory_refused"
    title = "Long-term memory refused the request"


class MemoryLeaked(MemoryUnavailable):
    """The store answered with what belongs to someone else. Nothing of the answer is used."""

    title = "Long-term memory gave an answer that can not be trusted"


class MemoryDisabled(LongTermMemoryError):
    code = "memory_disabled"
    title = "This service keeps no long-term memory"


class LongTermMemory(Protocol):
    """For remembering users across conversations: distilled facts, recalled by what is being said.

    Everything is scoped by user: an id is taken literally, whatever wildcards a store may know, and no method reads,
    changes or tells of another user's memories. A fact comes back as it was given.

    A call that failed or was cancelled may have had its effect, or still get it within two minutes.

    Every method raises:
        LongTermMemoryError: `MemoryUnavailable` where trying again may help, `MemoryRefused` where not.
    """

    extracts_from_turns: bool
    """Whether `remember` does anything, so that forgetting may meet a remembering that is under way."""

    @abstractmethod
    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        """Keep a fact as it is given. It is there for every later call on return."""
        ...

    @abstractmethod
    async def remember(self, turn: Turn) -> None:
        """Keep what is worth keeping of a completed turn; what that is, the adapter decides.

        On return it is kept, as far as the store can tell. Remembering a turn again adds nothing. Does nothing where
        `extracts_from_turns` is False.
        """
        ...

    @abstractmethod
    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        """The memories that fit `query` best, best first, `limit` at most. Which fit at all, the adapter decides.

        Cancelling takes effect at once, whatever goes on behind it: a reply waits. `query` may be any text, blank or
        very long; what is beyond the first thousand characters may be left out of consideration.
        """
        ...

    @abstractmethod
    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        """The user's memories, newest first. Pages together hold each memory once, however many there are.

        Raises:
            UnknownCursor: `cursor` is not one that a page gave.
        """
        ...

    @abstractmethod
    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        """Change what is not None, and nothing else of a memory; how it reads now.

        Raises:
            MemoryNotFound: this user has none with this id.
        """
        ...

    @abstractmethod
    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        """Forget one memory.

        Raises:
            MemoryNotFound: this user has none with this id.
        """
        ...

    @abstractmethod
    async def forget_all(self, user_id: UserId) -> bool:
        """Forget all that is kept of a user, remembered or stored; nothing of it stays, not even in a store's files.

        True when that is certain. False where the store needs time to make sure: it has been told, and the caller
        asks again, every few seconds, until it hears True. Forgetting an unknown user is fine.
        """
        ...

    @abstractmethod
    async def check(self) -> None:
        """Return if the store answers."""
        ...
