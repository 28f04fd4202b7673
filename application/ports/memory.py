"""Facts about users that outlive conversations, recalled by relevance to a message."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from domain.conversation import Turn, UserId
from domain.errors import ChatError
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page


class LongTermMemoryError(ChatError):
    """Base of all errors of long-term memory. A chat goes on without it."""


class MemoryUnavailable(LongTermMemoryError):
    """A temporary failure. It is unknown whether anything was written; retrying may succeed."""

    code = "memory_unavailable"
    title = "Long-term memory is temporarily unavailable"
    retryable = True


class MemoryRefused(LongTermMemoryError):
    """The service behind the memory rejected the request. Retrying the same request is pointless."""

    code = "memory_refused"
    title = "Long-term memory refused the request"


class MemoryNotReady(MemoryUnavailable):
    """The memory cannot work as it is configured, or has not been able to work since the start.

    Every request fails until the operator or another service changes something, so no turn is given up because of it.
    `detail` names the reason, and the setting to check if there is one.
    """

    title = "Long-term memory is not ready"


class MemoryMisconfigured(MemoryNotReady):
    """A service rejects every request until the operator corrects a setting, e.g. a key: retrying cannot help."""

    retryable = False


class FactsNotExtracted(MemoryUnavailable):
    """The model's reply could not be understood as facts, so the turn has not been remembered."""

    title = "Long-term memory could not extract facts from the turn"


class MemoryLeaked(MemoryUnavailable):
    """The store returned another user's memory. The whole result is discarded."""

    title = "Long-term memory returned an untrustworthy result"


class MemoryDisabled(LongTermMemoryError):
    code = "memory_disabled"
    title = "Long-term memory is disabled"


class LongTermMemory(Protocol):
    """Stores facts about users and recalls those that are relevant to a message.

        memory = await memory.store(UserId("ada"), "Likes tea", importance=0.5)
        recalled = await memory.recall(UserId("ada"), "What shall I drink?", limit=5)

    All methods are scoped to one user and never read, change or reveal another user's memories. User ids are literals,
    never patterns. Facts are returned exactly as they were given.

    A call that fails or is cancelled may still have taken effect, or take effect up to two minutes later.

    Every method raises:
        MemoryUnavailable: retrying may help.
        MemoryRefused: retrying does not help.
    """

    extracts_from_turns: bool
    """Whether `remember` has any effect, so that forgetting must be ordered after a pending `remember`."""

    @abstractmethod
    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        """Store a fact. Every later call sees it."""
        ...

    @abstractmethod
    async def remember(self, turn: Turn) -> None:
        """Extract facts from a completed turn and store them; the adapter decides which.

        Idempotent: remembering a turn again adds nothing. On return the facts are stored, as far as the store can tell.
        Has no effect if `extracts_from_turns` is False.
        """
        ...

    @abstractmethod
    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        """Return up to `limit` memories that match `query`, best first; the adapter decides which match.

        `query` is any text, including a blank or very long one; characters beyond the first thousand may be ignored.
        Cancellation takes effect immediately, because a reply waits for this call.
        """
        ...

    @abstractmethod
    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        """Return a page of the user's memories, newest first. Over all pages, each memory occurs once.

        A page has at most `limit` memories, and fewer if their text exceeds `domain.paging.MAX_PAGE_BYTES`.

        Raises:
            UnknownCursor: `cursor` is not the `next_cursor` of a page.
        """
        ...

    @abstractmethod
    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        """Change the fact, the importance or both of a memory, and return it. None leaves a value as it is.

        Raises:
            MemoryNotFound: the user has no memory with this id.
        """
        ...

    @abstractmethod
    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        """Delete one memory.

        Raises:
            MemoryNotFound: the user has no memory with this id.
        """
        ...

    @abstractmethod
    async def forget_all(self, user_id: UserId) -> bool:
        """Delete all memories of a user, from the store's files, too. Idempotent; unknown users are fine.

        Returns True once the deletion is confirmed. False means that it was accepted but the store needs time; the
        caller repeats the call every few seconds until it returns True.
        """
        ...

    @abstractmethod
    async def check(self) -> None:
        """Return if the store responds."""
        ...
