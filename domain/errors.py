"""Everything that can go wrong with a chat.

    ChatError
    ├── MessageTooLong          message_too_long
    ├── ContextTooLong          context_too_long
    ├── TurnNotFound            turn_not_found
    ├── MemoryNotFound          memory_not_found
    ├── TurnInProgress          turn_in_progress
    ├── StreamExpired           stream_expired
    ├── UnknownCursor           invalid_request
    ├── TurnDeadline            turn_deadline
    ├── OutputLimit             output_limit
    ├── WorkerLost              worker_lost
    ├── InternalError           internal_error
    ├── Interruption            someone ended the turn on purpose
    │   ├── Cancelled           cancelled
    │   ├── ClientDisconnected  client_disconnected
    │   └── ServerShuttingDown  server_shutting_down
    ├── LLMError                application/ports/llm.py
    │   ├── LLMUnreachable      upstream_unreachable
    │   ├── LLMTimeout          upstream_timeout
    │   ├── LLMIdle             upstream_idle
    │   ├── LLMRateLimited      upstream_rate_limited
    │   ├── LLMAuthFailed       upstream_auth
    │   ├── LLMFailed           upstream_error
    │   │   ├── LLMRefused      upstream_error
    │   │   └── LLMRedirected   upstream_error
    │   ├── LLMInvalid          upstream_invalid
    │   ├── LLMDisconnected     upstream_disconnected
    │   ├── LLMTruncated        upstream_truncated
    │   └── LLMContextTooLong   context_too_long
    ├── HistoryError            application/ports/history.py
    │   ├── HistoryUnavailable  history_unavailable
    │   └── HistoryWriteFailed  history_write_failed
    └── LongTermMemoryError     application/ports/memory.py
        ├── MemoryUnavailable   memory_unavailable
        │   └── MemoryLeaked    memory_unavailable
        ├── MemoryRefused       memory_refused
        └── MemoryDisabled      memory_disabled

A code is part of the API: it is stored with turns and sent to clients, and never changes its meaning.
"""

from typing import ClassVar


class ChatError(Exception):
    """Base of all errors that a caller may be told about.

    `detail` is for people and holds nothing that came from a provider, a store or another user.
    `retry_after` is in seconds, None where waiting has no known use.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        self.detail = detail or f"{self.title}."
        self.retry_after = retry_after
        super().__init__(self.detail)


class MessageTooLong(ChatError):
    code = "message_too_long"
    title = "The message is too long"


class ContextTooLong(ChatError):
    code = "context_too_long"
    title = "The message and the instructions do not fit the model's context"


class TurnNotFound(ChatError):
    code = "turn_not_found"
    title = "There is no such turn"


class MemoryNotFound(ChatError):
    """Also where it is another user's: whose it is, is nobody's business."""

    code = "memory_not_found"
    title = "There is no such memory"


class TurnInProgress(ChatError):
    code = "turn_in_progress"
    title = "Another turn of this conversation is still running"
    retryable = True


class StreamExpired(ChatError):
    code = "stream_expired"
    title = "The events of this turn are no longer kept; its text is in the history"


class UnknownCursor(ChatError):
    """A page's cursor that this service did not hand out."""

    code = "invalid_request"
    title = "The request is not valid"


class TurnDeadline(ChatError):
    code = "turn_deadline"
    title = "The turn took longer than it may"
    retryable = True


class OutputLimit(ChatError):
    code = "output_limit"
    title = "The reply grew longer than it may"


class WorkerLost(ChatError):
    """The process that ran the turn died; found out at the next start."""

    code = "worker_lost"
    title = "The service stopped in the middle of the turn"
    retryable = True


class InternalError(ChatError):
    code = "internal_error"
    title = "The service made a mistake"


class Interruption(ChatError):
    """Someone ended the turn on purpose."""


class Cancelled(Interruption):
    code = "cancelled"
    title = "The turn was stopped"


class ClientDisconnected(Interruption):
    code = "client_disconnected"
    title = "The last reader left"


class ServerShuttingDown(Interruption):
    code = "server_shutting_down"
    title = "The service is shutting down"
    retryable = True


class Unusable(Exception):
    """Something that is configured cannot be used; the message is one sentence for the operator, without secrets."""
