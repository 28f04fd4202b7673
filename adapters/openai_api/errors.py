"""What errors of the SDK, of its HTTP libraries and of the service mean to us.

Nothing that the service wrote gets into our errors or their causes: it may repeat our credentials or a user's text.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2
import openai

from adapters.openai_api.connection import Unreadable
from adapters.openai_api.connections import NotConnected
from application.ports.llm import (
    LLMAuthFailed,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMIdle,
    LLMInvalid,
    LLMRateLimited,
    LLMRedirected,
    LLMRefused,
    LLMTimeout,
    LLMUnreachable,
)


class ForeignError(Exception):
    """Stands for an error of a library as the cause of ours: its names and numbers, without its text."""


@dataclass(frozen=True)
class Meaning:
    """What an error is to us before the answer has begun, and after."""

    waiting: type[LLMError]
    streaming: type[LLMError]
    repeatable: bool = False
    """The request has certainly not been received."""


UNREACHED: Final = Meaning(LLMUnreachable, LLMDisconnected, repeatable=True)
UNREACHABLE: Final = Meaning(LLMUnreachable, LLMDisconnected)
SILENT: Final = Meaning(LLMTimeout, LLMIdle)
BROKEN: Final = Meaning(LLMDisconnected, LLMDisconnected)
UNREADABLE: Final = Meaning(LLMInvalid, LLMInvalid)
REDIRECTED: Final = Meaning(LLMRedirected, LLMRedirected)
FAILED: Final = Meaning(LLMFailed, LLMFailed)

MEANINGS: Final[Mapping[type[Exception], Meaning]] = {
    NotConnected: UNREACHED,
    Unreadable: UNREADABLE,
    httpx2.ConnectTimeout: UNREACHED,
    httpx2.PoolTimeout: UNREACHED,
    httpx2.ConnectError: UNREACHED,
    httpx2.ProxyError: UNREACHED,
    httpx2.UnsupportedProtocol: UNREACHABLE,
    httpx2.InvalidURL: UNREACHABLE,
    httpx2.TimeoutException: SILENT,
    httpx2.NetworkError: BROKEN,
    httpx2.RemoteProtocolError: BROKEN,
    httpx2.DecodingError: UNREADABLE,
    httpx2.TooManyRedirects: REDIRECTED,
    httpx2.HTTPError: FAILED,
    httpx2.CookieConflict: FAILED,
    httpx2.StreamError: FAILED,
    openai.APITimeoutError: SILENT,
    openai.APIConnectionError: BROKEN,
    openai.APIResponseValidationError: UNREADABLE,
    openai.OpenAIError: FAILED,
    TimeoutError: SILENT,
    OSError: BROKEN,
    ValueError: UNREADABLE,
}
"""The most derived class that an error is of counts."""

FOREIGN: Final = tuple(MEANINGS)

_LIBRARIES: Final = ("adapters", "httpx2", "openai")
"""Where several of them tell of one error, the first in this order is believed."""

_REPEATABLE: Final = frozenset({408, 409, 500, 502, 503, 529})
"""Statuses of requests that were not worked on, by convention."""

_RATE: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "insufficient_quota", "too_many_requests"})
_AUTH: Final = frozenset({"invalid_api_key", "authentication_error", "permission_error", "permission_denied"})
_CONTEXT: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTEXT_TEXT: Final = re.compile(r"context.{0,30}(length|size|window)|(exceed|larger|too).{0,60}context", re.I | re.S)
_TOKEN: Final = re.compile(r"[a-z_]{1,48}")


def of_exception(error: Exception, *, streaming: bool) -> LLMError:
    """What to raise for an error of a library."""
    chain = list(_chain(error))
    told = min(chain, key=_authority)
    meaning = meaning_of(type(told))
    failure = (meaning.streaming if streaming else meaning.waiting)()
    failure.repeatable = meaning.repeatable and not streaming
    failure.__cause__ = ForeignError(" from ".join(_name(link) for link in chain))
    return failure


def meaning_of(foreign: type[BaseException]) -> Meaning:
    """Raises: KeyError: the class is not ours to explain."""
    return MEANINGS[next((base for base in foreign.__mro__ if base in MEANINGS), foreign)]


def of_status(refusal: openai.APIStatusError) -> LLMError:
    """What to raise for an answer that is not a 2xx."""
    status = refusal.status_code
    failure = _of_answer(status, refusal.body)
    failure.retry_after = _retry_after(refusal.response.headers)
    if type(failure) is LLMFailed:
        failure.repeatable = status in _REPEATABLE
    names = [name for name in (refusal.code, refusal.type, refusal.param) if name and _TOKEN.fullmatch(name)]
    failure.__cause__ = ForeignError(" ".join([f"{_name(refusal)} {status}", *names]))
    return failure


def of_event(error: object) -> LLMError:
    """What to raise for an error that the service sent inside of the stream."""
    failure = _of_answer(None, error)
    failure.repeatable = False
    return failure


def _of_answer(status: int | None, body: object) -> LLMError:
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {"message": body}
    names = {str(fields.get("code")), str(fields.get("type"))}
    if status is None:
        numbers = (fields.get("code"), fields.get("status"), fields.get("status_code"))
        status = next((number for number in numbers if isinstance(number, int) and 300 <= number < 600), None)
    said = f"The model's service answered {status}." if status else None
    if status in (401, 403) or names & _AUTH:
        return LLMAuthFailed(said)
    if names & _CONTEXT or status == 413:
        return LLMContextTooLong()
    if status == 429 or names & _RATE:
        limited = LLMRateLimited(said)
        limited.repeatable = "insufficient_quota" not in names
        return limited
    if status in (None, 400, 422) and _CONTEXT_TEXT.search(str(fields.get("message"))):
        return LLMContextTooLong()
    if status is None:
        return LLMFailed()
    if status < 400:
        return LLMRedirected(said)
    if status in (408, 504, 524):
        slow = LLMTimeout(said)
        slow.repeatable = status in _REPEATABLE
        return slow
    return (LLMFailed if status >= 500 or status in _REPEATABLE else LLMRefused)(said)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After`; None where neither can be read."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = _seconds(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _authority(error: BaseException) -> int:
    library = type(error).__module__.partition(".")[0]
    return _LIBRARIES.index(library) if library in _LIBRARIES else len(_LIBRARIES)


def _name(error: BaseException) -> str:
    number = f" [Errno {error.errno}]" if isinstance(error, OSError) and error.errno else ""
    return f"{type(error).__module__}.{type(error).__qualname__}{number}"
