"""The work that long-term memory still has to do: remember completed turns, forget users.

It is stored with the turns and changes in the same transactions, so that it survives crashes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from domain.conversation import Turn, UserId

SETTLE_TIME: Final = timedelta(minutes=2)
"""How long a memory store may take to apply a write that it has not confirmed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right to change one user's memories, until its lease expires.

    `token` identifies the claim, and every method that takes a claim or a job checks it: once the lease has expired and
    another worker has claimed the user, calls with the old claim have no effect. Until then they may have one.
    """

    user_id: UserId
    token: str


@dataclass(frozen=True, slots=True)
class RememberTurn:
    """A completed turn to be remembered. `attempts` have failed so far."""

    claim: Claim
    turn: Turn
    attempts: int


@dataclass(frozen=True, slots=True)
class ForgetUser:
    """A user to be forgotten. `attempts` have been made since it was last requested.

    If `unsettled` (see `MemoryOutbox.release`), a write that the memory store did not confirm may still arrive, so that
    the user has to be forgotten again later.
    """

    claim: Claim
    attempts: int
    unsettled: bool


OutboxJob = RememberTurn | ForgetUser


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Number of turns waiting to be remembered, of turns given up, and of users waiting to be forgotten."""

    pending: int
    dead: int
    forgetting: int


class MemoryOutbox(Protocol):
    """The work that long-term memory still has to do: remember completed turns, forget users.

    `ConversationHistory.finish` adds turns. At most one job per user is claimed at a time, by any worker. Delays are
    measured by the store's clock. Methods do not block the event loop, and a cancelled call has taken effect completely
    or not at all.

    A durable store keeps all of it across restarts, except that in a store that a single process opens exclusively, the
    claims of earlier processes expire when it is opened. A write of theirs counts as unconfirmed until its claim would
    have expired, and for at most `SETTLE_TIME`.

    Every method raises:
        HistoryUnavailable: nothing was read or written.
    """

    @abstractmethod
    async def claim(self, limit: int, lease: timedelta) -> Sequence[OutboxJob]:
        """Claim up to `limit` jobs that are due, each of another user.

        Users to be forgotten come first, then turns, each in the order in which they became due. Neither is due while
        the user is claimed. A turn is not due while its user is to be forgotten, and never after it was given up. A
        lease of zero expires at once.
        """
        ...

    @abstractmethod
    async def claim_user(self, user_id: UserId, lease: timedelta) -> Claim | None:
        """Claim a user without a job, to change their memories. None if the user is claimed, or is to be forgotten."""
        ...

    @abstractmethod
    async def release(self, claim: Claim, *, unsettled_for: timedelta | None = None) -> None:
        """Release a claim. An unknown claim has no effect.

        `unsettled_for` says for how long a write may still arrive that the memory store did not confirm. Until then,
        jobs to forget the user are `unsettled`. Of several such times the latest counts. The same holds for `postpone`
        and `give_up`.
        """
        ...

    @abstractmethod
    async def settle(self, job: RememberTurn) -> None:
        """The turn has been remembered: remove it, and release the claim. Also if the turn was deleted meanwhile."""
        ...

    @abstractmethod
    async def postpone(
        self, job: OutboxJob, delay: timedelta, *, unsettled_for: timedelta | None = None, counts: bool = True
    ) -> None:
        """The attempt failed or has to be repeated: count it, make the job due after `delay`, and release the claim.

        It is not counted if `counts` is False, because it says nothing about the job: no attempt could have succeeded.
        A turn that was deleted or withdrawn meanwhile (see `begin_forgetting`) does not return.
        """
        ...

    @abstractmethod
    async def give_up(self, job: RememberTurn, *, unsettled_for: timedelta | None = None) -> None:
        """The turn cannot be remembered: only count it from now on, until it is deleted, and release the claim."""
        ...

    @abstractmethod
    async def begin_forgetting(self, user_id: UserId) -> None:
        """Have a user forgotten; none of their turns so far will be remembered. Durable on return.

        Their turns are withdrawn from the outbox, including those given up, and turns that are running do not enter it
        when they finish. Turns that begin from now on do. If the user is being forgotten already, `attempts` restarts
        at 0 and the next attempt is due immediately, once the user is not claimed.
        """
        ...

    @abstractmethod
    async def end_forgetting(self, job: ForgetUser) -> None:
        """The user has been forgotten: remove the job, and release the claim."""
        ...

    @abstractmethod
    async def forget_attempts(self, user_id: UserId) -> int | None:
        """Return how often forgetting this user has been attempted; None if the user is not to be forgotten."""
        ...

    @abstractmethod
    async def counts(self) -> OutboxCounts:
        """Return the size of the outbox."""
        ...
