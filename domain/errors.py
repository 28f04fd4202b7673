"""The errors a chat can end with, and `Unusable` for the operator.

    ChatError
    ├── MessageTooLong          message_too_long
    ├── ContextTooLong          context_too_long
    ├── TurnNotFound            turn_not_found
    ├── ConversationNotFound    conversation_not_found
    ├── MemoryNotFound          memory_not_found
    ├── TurnInProgress          turn_in_progress
    ├── IdempotencyKeyReused    idempotency_key_reused
    ├── StreamExpired           stream_expired
    ├── UnknownCursor           invalid_request
    ├── Unauthenticated         unauthenticated
    ├── Forbidden               forbidden
    ├── AuthNotConfigured       auth_not_configured
    ├── AmbiguousCredentials    ambiguous_credentials
    ├── TooManyAttempts         too_many_attempts
    ├── TurnDeadline            turn_deadline
    ├── OutputLimit             output_limit
    ├── WorkerLost              worker_lost
    ├── InternalError           internal_error
    ├── Interruption            the turn was ended deliberately
    │   ├── Cancelled           cancelled
    │   ├── ClientDisconnected  client_disconnected
    │   ├── Superseded          superseded
    │   └── ServerShuttingDown  server_shutting_down
    ├── LiveTurnsUnavailable    live_turns_unavailable
    ├── LLMError                application/ports/llm.py
    │   ├── LLMUnreachable      upstream_unreachable
    │   │   └── LLMNotConnectable  upstream_unreachable
    │   ├── LLMTimeout          upstream_timeout
    │   ├── LLMIdle             upstream_idle
    │   ├── LLMRateLimited      upstream_rate_limited
    │   ├── LLMQuotaExceeded    upstream_quota
    │   ├── LLMAuthFailed       upstream_auth
    │   ├── LLMFailed           upstream_error
    │   │   ├── LLMRefused      upstream_error
    │   │   └── LLMRedirected   upstream_error
    │   ├── LLMParameterRefused unsupported_parameter
    │   ├── LLMContentRefused   content_refused
    │   ├── LLMInvalid          upstream_invalid
    │   │   └── LLMWrongAPI     upstream_invalid
    │   ├── LLMDisconnected     upstream_disconnected
    │   ├── LLMTruncated        upstream_truncated
    │   └── LLMContextTooLong   context_too_long
    ├── HistoryError            application/ports/history.py
    │   ├── HistoryUnavailable  history_unavailable
    │   │   └── HistoryLost     history_unavailable
    │   └── HistoryWriteFailed  history_write_failed
    ├── IdentityProviderUnavailable identity_provider_unavailable
    └── LongTermMemoryError     application/ports/memory.py
        ├── MemoryUnavailable   memory_unavailable
        │   ├── MemoryNotReady  memory_unavailable
        │   │   └── MemoryMisconfigured memory_unavailable
        │   ├── FactsNotExtracted memory_unavailable
        │   └── MemoryLeaked    memory_unavailable
        ├── MemoryRefused       memory_refused
        └── MemoryDisabled      memory_disabled

A code is part of the API: it is stored with turns and sent to clients, and its meaning never changes.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self


class ChatError(Exception):
    """Base class of every error that may be reported to a caller.

    `detail` is for humans and contains nothing from a provider, a store or another user. `retry_after` is in seconds;
    None if no waiting time is known to help. `parameter` is the field of the request that is to blame, if one is.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    retryable: ClassVar[bool] = False
    parameter: str | None = None

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        self.detail = detail or f"{self.title}."
        self.retry_after = retry_after
        super().__init__(self.detail)


class Failure(NamedTuple):
    """A ChatError as plain data, so that every process reports it with the same bytes."""

    code: str
    title: str
    detail: str
    retryable: bool
    retry_after: float | None = None
    parameter: str | None = None

    @classmethod
    def of(cls, error: ChatError) -> Self:
        return cls(error.code, error.title, error.detail, error.retryable, error.retry_after, error.parameter)

    @classmethod
    def of_code(cls, code: str) -> Self:
        """Describe a stored code. A code that this version does not know is reported as an internal error."""
        known = {error.code: error for error in reversed(list(_subclasses(ChatError))) if hasattr(error, "code")}
        return cls.of(known.get(code, InternalError)())


def _subclasses(parent: type[ChatError]) -> Iterator[type[ChatError]]:
    """Yield a class before its subclasses."""
    for error in parent.__subclasses__():
        yield error
        yield from _subclasses(error)


class MessageTooLong(ChatError):
    code = "message_too_long"
    title = "The message is too long"


class ContextTooLong(ChatError):
    code = "context_too_long"
    title = "The message and the instructions exceed the model's context window"


class TurnNotFound(ChatError):
    """Also raised for another user's turn, so that its existence is not disclosed."""

    code = "turn_not_found"
    title = "Turn not found"


class ConversationNotFound(ChatError):
    code = "conversation_not_found"
    title = "Conversation not found"


class MemoryNotFound(ChatError):
    """Also raised for another user's memory, so that its existence is not disclosed."""

    code = "memory_not_found"
    title = "Memory not found"


class TurnInProgress(ChatError):
    code = "turn_in_progress"
    title = "Another turn of this conversation is in progress"
    retryable = True


class IdempotencyKeyReused(ChatError):
    """The key, or the turn id, names an earlier request of the user, which asked for something else."""

    code = "idempotency_key_reused"
    title = "The idempotency key or turn id was used for another request"


class StreamExpired(ChatError):
    code = "stream_expired"
    title = "The events of this turn are no longer kept; its text is in the history"


class UnknownCursor(ChatError):
    """The cursor of a page was not issued by this service."""

    code = "invalid_request"
    title = "Invalid request"


class Unauthenticated(ChatError):
    """No valid credential. The same for every cause, so that responses disclose nothing about keys and tokens."""

    code = "unauthenticated"
    title = "Authentication is required"

    def __init__(self) -> None:
        super().__init__("Send a valid API key or token as Authorization: Bearer, or an API key as X-API-Key.")


class Forbidden(ChatError):
    """The principal may not do this, e.g. with another user's data. Raised whether or not there is such data."""

    code = "forbidden"
    title = "This credential does not permit the request"


class AuthNotConfigured(ChatError):
    """There is no authentication, and the request may come from another machine or another site's page."""

    code = "auth_not_configured"
    title = "Authentication is not configured"

    def __init__(self) -> None:
        super().__init__("Without authentication, only direct requests to localhost from this machine are served.")


class AmbiguousCredentials(ChatError):
    code = "ambiguous_credentials"
    title = "The request has several credentials"


class TooManyAttempts(ChatError):
    """Too many failed attempts to authenticate, by this address or with the id of this API key."""

    code = "too_many_attempts"
    title = "Too many failed attempts to authenticate"
    retryable = True


class TurnDeadline(ChatError):
    code = "turn_deadline"
    title = "The turn exceeded its time limit"
    retryable = True


class OutputLimit(ChatError):
    code = "output_limit"
    title = "The reply exceeded the size limit"


class WorkerLost(ChatError):
    """The process that ran the turn died; detected when its lease expired, or at the next start."""

    code = "worker_lost"
    title = "The service stopped in the middle of the turn"
    retryable = True


class InternalError(ChatError):
    code = "internal_error"
    title = "Internal error"


class Interruption(ChatError):
    """The turn was ended deliberately."""


class Cancelled(Interruption):
    code = "cancelled"
    title = "The turn was stopped"


class ClientDisconnected(Interruption):
    code = "client_disconnected"
    title = "The last reader disconnected"


class Superseded(Interruption):
    code = "superseded"
    title = "A later message of the conversation interrupted the turn"


class ServerShuttingDown(Interruption):
    code = "server_shutting_down"
    title = "The service is shutting down"
    retryable = True


class Unusable(Exception):
    """Something that is configured cannot be used; the message is one sentence for the operator, without secrets."""


class TemporarilyUnusable(Unusable):
    """The reason can pass without a change of the configuration, e.g. a full disk: trying again later can succeed."""
