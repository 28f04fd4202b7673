"""The HTTP status of every error."""

from typing import Final

from application.ports import credentials, history, live_turns, llm, memory
from domain import errors
from domain.errors import ChatError

STATUS: Final[dict[type[ChatError], int]] = {
    errors.MessageTooLong: 413,
    errors.ContextTooLong: 413,
    errors.TurnNotFound: 404,
    errors.ConversationNotFound: 404,
    errors.MemoryNotFound: 404,
    errors.TurnInProgress: 409,
    errors.IdempotencyKeyReused: 422,
    errors.StreamExpired: 410,
    errors.UnknownCursor: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.AuthNotConfigured: 403,
    errors.AmbiguousCredentials: 400,
    errors.TooManyAttempts: 429,
    errors.TurnDeadline: 504,
    errors.OutputLimit: 502,
    errors.WorkerLost: 500,
    errors.InternalError: 500,
    errors.Cancelled: 409,
    errors.ClientDisconnected: 409,
    errors.Superseded: 409,
    errors.ServerShuttingDown: 503,
    llm.LLMUnreachable: 502,
    llm.LLMNotConnectable: 502,
    llm.LLMTimeout: 504,
    llm.LLMIdle: 504,
    llm.LLMRateLimited: 503,
    llm.LLMQuotaExceeded: 502,
    llm.LLMAuthFailed: 502,
    llm.LLMFailed: 502,
    llm.LLMRefused: 502,
    llm.LLMRedirected: 502,
    llm.LLMParameterRefused: 400,
    llm.LLMContentRefused: 422,
    llm.LLMInvalid: 502,
    llm.LLMWrongAPI: 502,
    llm.LLMDisconnected: 502,
    llm.LLMTruncated: 502,
    llm.LLMContextTooLong: 413,
    live_turns.LiveTurnsUnavailable: 503,
    credentials.IdentityProviderUnavailable: 503,
    history.HistoryUnavailable: 503,
    history.HistoryLost: 503,
    history.HistoryWriteFailed: 503,
    memory.MemoryUnavailable: 503,
    memory.MemoryNotReady: 503,
    memory.MemoryMisconfigured: 503,
    memory.FactsNotExtracted: 503,
    memory.MemoryLeaked: 503,
    memory.MemoryRefused: 502,
    memory.MemoryDisabled: 501,
}
"""No other module maps errors to statuses, except `openai/errors.py` for two codes whose status is another at `/v1`."""

_STATUS_OF_CODE: Final = {kind.code: status for kind, status in STATUS.items()}


def status_of_code(code: str) -> int:
    """Return the HTTP status of an error code, e.g. of a turn that was ended by another process.

    A code that this version does not know is answered as 500.
    """
    return _STATUS_OF_CODE.get(code, 500)
