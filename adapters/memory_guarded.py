"""Wraps a LongTermMemory with timeouts, a circuit breaker for recall and a tenant-isolation check."""

from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

import anyio

from application.ports.memory import (
    LongTermMemory,
    LongTermMemoryError,
    MemoryDisabled,
    MemoryLeaked,
    MemoryUnavailable,
)
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page

P = ParamSpec("P")
T = TypeVar("T")


class GuardedMemory(LongTermMemory):
    """Protects chats from a memory that hangs, fails or returns another user's memories.

    - A call ends after `recall_timeout` (recall, check), `remember_timeout` (remember, which may ask a model) or
      `call_timeout` (all others), in seconds.
    - After `max_failures` failed recalls in a row, recalls fail at once for `cooldown` seconds. Then one is let
      through as a probe; the others keep failing until it has succeeded.
    - A result that contains another user's memory is discarded, and every call fails for `cooldown` seconds: a store
      that mixes up two users may mix up all of them.

    Failures are reported to the observer; errors that the caller made (`MemoryNotFound`, …) are not.
    """

    def __init__(
        self,
        memory: LongTermMemory,
        observer: TurnObserver,
        *,
        recall_timeout: float,
        call_timeout: float = 30.0,
        remember_timeout: float = 120.0,
        max_failures: int = 5,
        cooldown: float = 30.0,
    ) -> None:
        self.extracts_from_turns = memory.extracts_from_turns
        self._memory = memory
        self._observer = observer
        self._recall_timeout = recall_timeout
        self._call_timeout = call_timeout
        self._remember_timeout = remember_timeout
        self._cooldown = cooldown
        self._recalls = CircuitBreaker(max_failures=max_failures, cooldown=cooldown)
        self._distrusted_until = 0.0

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        store = self._memory.store
        stored = await self._call(Where.STORING_FACT, self._call_timeout, store, user_id, fact, importance)
        return self._owned(user_id, [stored])[0]

    async def remember(self, turn: Turn) -> None:
        await self._call(Where.REMEMBERING_TURN, self._remember_timeout, self._memory.remember, turn)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        is_probe = self._recalls.begin()
        recall = self._memory.recall
        try:
            recalled = await self._call(Where.RECALLING, self._recall_timeout, recall, user_id, query, limit)
        except MemoryUnavailable as error:
            self._recalls.fail(error.detail)
            raise
        except BaseException:  # refused or cancelled, which tells nothing about the store
            if is_probe:
                self._recalls.abandon_probe()
            raise
        self._recalls.succeed()
        self._owned(user_id, [one.memory for one in recalled])
        return recalled

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        page = await self._call(Where.LISTING_MEMORIES, self._call_timeout, self._memory.page, user_id, limit, cursor)
        self._owned(user_id, page.items)
        return page

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        correct, timeout = self._memory.correct, self._call_timeout
        corrected = await self._call(Where.CORRECTING_MEMORY, timeout, correct, user_id, memory_id, fact, importance)
        return self._owned(user_id, [corrected])[0]

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        await self._call(Where.FORGETTING_MEMORY, self._call_timeout, self._memory.forget, user_id, memory_id)

    async def forget_all(self, user_id: UserId) -> bool:
        return await self._call(Where.FORGETTING_USER, self._call_timeout, self._memory.forget_all, user_id)

    async def check(self) -> None:
        await self._call(Where.CHECKING_MEMORY, self._recall_timeout, self._memory.check)

    async def _call(
        self, where: Where, seconds: float, method: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs
    ) -> T:
        distrusted_for = self._distrusted_until - anyio.current_time()
        if distrusted_for > 0:
            raise MemoryUnavailable(retry_after=distrusted_for)
        try:
            with anyio.fail_after(seconds):
                return await method(*arguments, **named)
        except (MemoryDisabled, MemoryNotFound, UnknownCursor):  # the caller's mistakes
            raise
        except LongTermMemoryError as error:
            self._report(where, error)
            raise
        except TimeoutError:
            setting = " (MEMORY_RECALL_TIMEOUT)" if where is Where.RECALLING else ""
            failure = MemoryUnavailable(f"Long-term memory did not respond within {seconds:g} s{setting}.")
            self._report(where, failure)
            raise failure from None
        except Exception as bug:  # that the adapter should have translated
            self._report(where, bug)
            raise MemoryUnavailable from bug

    def _owned(self, user_id: UserId, memories: Sequence[Memory]) -> Sequence[Memory]:
        """Return the memories if all belong to the user; otherwise distrust the store for a while."""
        if any(memory.owner != user_id for memory in memories):
            self._distrusted_until = anyio.current_time() + self._cooldown
            leak = MemoryLeaked()
            self._report(Where.CHECKING_OWNER, leak)
            raise leak
        return memories

    def _report(self, where: Where, error: Exception) -> None:
        self._observer.observe(BackgroundFailure(where, error))


class CircuitBreaker:
    """Rejects calls for `cooldown` seconds after `max_failures` in a row, then admits one at a time as a probe.

    Each `begin` that returns is followed by `succeed` or `fail`, or, if a probe tells nothing, by `abandon_probe`.
    """

    def __init__(self, *, max_failures: int, cooldown: float) -> None:
        self._max_failures = max_failures
        self._cooldown = cooldown
        self._failures = 0
        self._open_until = 0.0
        self._reason: str | None = None

    def begin(self) -> bool:
        """Admit a call, and return whether it is a probe.

        Raises:
            MemoryUnavailable: the circuit is open; `detail` is that of the latest failure.
        """
        now = anyio.current_time()
        if now < self._open_until:
            raise MemoryUnavailable(self._reason, retry_after=self._open_until - now)
        is_probe = self._failures >= self._max_failures
        if is_probe:
            self._open_until = now + self._cooldown  # for all other calls, until this one has ended
        return is_probe

    def succeed(self) -> None:
        self._failures, self._open_until = 0, 0.0

    def fail(self, reason: str) -> None:
        self._failures += 1
        self._reason = reason
        if self._failures >= self._max_failures:
            self._open_until = anyio.current_time() + self._cooldown

    def abandon_probe(self) -> None:
        """Admit the next call as another probe."""
        self._open_until = 0.0
