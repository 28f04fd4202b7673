"""Observing turns and the work around them: logs today, metrics and traces as further adapters."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from application.ports.credentials import Cause
from application.ports.history import HistoryUnavailable
from domain.conversation import ConversationId, Turn, UserId
from domain.errors import ChatError


class Where(StrEnum):
    """The activity that failed. The values appear in logs."""

    RUNNING_TURN = "running a turn"
    STORING_END = "storing the end of a turn"
    SAVING_PROGRESS = "saving the text so far"
    ENDING_ABANDONED_TURNS = "ending abandoned turns"
    WRITING_EVENTS = "writing a turn's events"
    RELEASING_USER = "releasing a user whose memories were changed"
    RELEASING_LEASE = "releasing the lease of a conversation"
    CLAIMING_JOBS = "claiming jobs from the memory outbox"
    RUNNING_JOB = "running a job of the memory outbox"
    GIVING_UP_TURN = "remembering a turn, which is given up"
    CHECKING_FORGETTING = "checking whether a user is being forgotten"
    STORING_FACT = "storing a fact"
    REMEMBERING_TURN = "remembering a turn"
    RECALLING = "recalling memories"
    LISTING_MEMORIES = "listing memories"
    CORRECTING_MEMORY = "correcting a memory"
    FORGETTING_MEMORY = "forgetting a memory"
    FORGETTING_USER = "forgetting a user"
    CHECKING_MEMORY = "checking long-term memory"
    CHECKING_OWNER = "checking the owner of memories"


class Store(StrEnum):
    """A store that the service is not ready without. The values appear in logs."""

    HISTORY = "history"
    API_KEYS = "API keys"


@dataclass(frozen=True, slots=True)
class TurnBegun:
    """A turn is stored and starts to run."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class TurnRejected:
    """A message was rejected before a turn began; nothing was stored."""

    user_id: UserId
    conversation_id: ConversationId
    error: ChatError


@dataclass(frozen=True, slots=True)
class MemoriesRecalled:
    """Long-term memory was searched for a turn. `count` is None if it did not answer."""

    turn: Turn
    seconds: float
    count: int | None


@dataclass(frozen=True, slots=True)
class TurnAccepted:
    """The model has started to answer, `seconds` after the turn began."""

    turn: Turn
    seconds: float


@dataclass(frozen=True, slots=True)
class ContextWindowExceeded:
    """The model refused a request as too long; from now on, prompts are made to fit. Observed once per model.

    `request_tokens` is the estimated size of prompt and reply, `window_tokens` what the model accepts, if its service
    named it, and `context_tokens` the setting.
    """

    request_tokens: int
    window_tokens: int | None
    context_tokens: int


@dataclass(frozen=True, slots=True)
class ReplyLimitLowered:
    """The setting `max_tokens` leaves no room for the prompt: a reply was limited to `lowered` tokens instead.

    Observed once per model.
    """

    max_tokens: int
    lowered: int


@dataclass(frozen=True, slots=True)
class FirstDelta:
    """The first text of the reply arrived, `seconds` after the turn began."""

    turn: Turn
    seconds: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A turn ended as stored in `turn`; `error` is set unless the model finished.

    Times are in seconds since the turn began. `memories` is the number of recalled memories, None if long-term memory
    did not answer or was not asked. `notes` tell the operator what was unusual about the model's response.
    """

    turn: Turn
    error: ChatError | None
    seconds: float
    first_delta_seconds: float | None = None
    deltas: int = 0
    memories: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class AbandonedTurnsEnded:
    """Turns of workers that died were ended as `worker_lost`."""

    count: int


@dataclass(frozen=True, slots=True)
class TurnFenced:
    """A turn was found ended in the history, as in `turn`, while this process ran it. Its own end was not stored.

    It has lost its lease, e.g. because the process was paused or could not reach the store for longer than that.
    """

    turn: Turn


@dataclass(frozen=True, slots=True)
class StoreCalled:
    """A call of the history or outbox returned or raised after `seconds`. `operation` is the port's method name."""

    operation: str
    seconds: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class StoreFailing:
    """A store has been failing for `seconds`. Observed when it begins and repeatedly while it lasts.

    `error` explains why. A `HistoryLost` is observed once.
    """

    error: HistoryUnavailable
    seconds: float
    store: Store = Store.HISTORY


@dataclass(frozen=True, slots=True)
class StoreRecovered:
    """A store works again, after `seconds`."""

    seconds: float
    store: Store = Store.HISTORY


@dataclass(frozen=True, slots=True)
class BackgroundFailure:
    """Something failed without failing a request; the application carries on."""

    where: Where
    error: Exception


@dataclass(frozen=True, slots=True)
class AuthenticationFailed:
    """A credential from an IP address was rejected. `key_id` is the API key that it named.

    `throttled`: the address or key has failed too often, so that more of this may follow.
    """

    cause: Cause
    address: str
    key_id: str | None
    throttled: bool


@dataclass(frozen=True, slots=True)
class SigningKeysNotFetched:
    """The keys of the identity provider could not be fetched. `explanation` is a sentence for the operator.

    `stale_for` is how many seconds ago they were fetched last; None if none are known.
    """

    explanation: str
    stale_for: float | None


Event = (
    TurnBegun
    | TurnRejected
    | MemoriesRecalled
    | TurnAccepted
    | ContextWindowExceeded
    | ReplyLimitLowered
    | FirstDelta
    | TurnEnded
    | AbandonedTurnsEnded
    | TurnFenced
    | StoreCalled
    | StoreFailing
    | StoreRecovered
    | BackgroundFailure
    | AuthenticationFailed
    | SigningKeysNotFetched
)


class TurnObserver(Protocol):
    """Observing turns and the work around them: logs today, metrics and traces as further adapters."""

    @abstractmethod
    def observe(self, event: Event) -> None:
        """Take note of an event. Returns immediately and never raises; ignores events it has no use for."""
        ...
