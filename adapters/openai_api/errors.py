"""Map the errors of the SDK, of its HTTP libraries and of the service to those of the LLM port.

Nothing that the service wrote becomes part of our errors or their causes: it may repeat credentials or a user's text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import aiohttp.http_exceptions
import httpx2
import openai

from adapters.error_translation import exception_chain, foreign_error
from adapters.openai_api.http_client import ConnectError
from adapters.retry_after import parse_retry_after
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


@dataclass(frozen=True)
class Translation:
    """What an exception becomes before the response has begun (`waiting`), and while it streams (`streaming`)."""

    waiting: type[LLMError]
    streaming: type[LLMError]
    repeatable: bool = False
    """The request cannot have reached the service."""


NOT_CONNECTED: Final = Translation(LLMUnreachable, LLMDisconnected, repeatable=True)
BAD_URL: Final = Translation(LLMUnreachable, LLMDisconnected)
TIMED_OUT: Final = Translation(LLMTimeout, LLMIdle)
DISCONNECTED: Final = Translation(LLMDisconnected, LLMDisconnected)
INVALID: Final = Translation(LLMInvalid, LLMInvalid)
REDIRECTED: Final = Translation(LLMRedirected, LLMRedirected)
FAILED: Final = Translation(LLMFailed, LLMFailed)

ERROR_MAP: Final[Mapping[type[Exception], Translation]] = {
    ConnectError: NOT_CONNECTED,
    aiohttp.ClientConnectorError: NOT_CONNECTED,
    aiohttp.ClientHttpProxyError: NOT_CONNECTED,
    aiohttp.ConnectionTimeoutError: NOT_CONNECTED,
    aiohttp.ServerFingerprintMismatch: NOT_CONNECTED,
    aiohttp.ServerTimeoutError: TIMED_OUT,
    aiohttp.ClientConnectionError: DISCONNECTED,
    aiohttp.ClientPayloadError: DISCONNECTED,
    aiohttp.UploadAbortedError: DISCONNECTED,
    aiohttp.EofStream: DISCONNECTED,
    aiohttp.TooManyRedirects: REDIRECTED,
    aiohttp.RedirectClientError: REDIRECTED,
    aiohttp.ClientResponseError: INVALID,
    aiohttp.InvalidURL: BAD_URL,
    aiohttp.NonHttpUrlClientError: BAD_URL,
    aiohttp.ClientError: FAILED,
    aiohttp.WebSocketError: FAILED,
    aiohttp.WSMessageTypeError: FAILED,
    aiohttp.http_exceptions.HttpProcessingError: INVALID,
    aiohttp.http_exceptions.ContentLengthError: DISCONNECTED,
    aiohttp.http_exceptions.TransferEncodingError: DISCONNECTED,
    httpx2.ConnectTimeout: NOT_CONNECTED,
    httpx2.PoolTimeout: NOT_CONNECTED,
    httpx2.ConnectError: NOT_CONNECTED,
    httpx2.ProxyError: NOT_CONNECTED,
    httpx2.UnsupportedProtocol: BAD_URL,
    httpx2.InvalidURL: BAD_URL,
    httpx2.TimeoutException: TIMED_OUT,
    httpx2.NetworkError: DISCONNECTED,
    httpx2.RemoteProtocolError: DISCONNECTED,
    httpx2.DecodingError: INVALID,
    httpx2.TooManyRedirects: REDIRECTED,
    httpx2.HTTPError: FAILED,
    httpx2.CookieConflict: FAILED,
    httpx2.StreamError: FAILED,
    openai.APITimeoutError: TIMED_OUT,
    openai.APIConnectionError: DISCONNECTED,
    openai.APIResponseValidationError: INVALID,
    openai.OpenAIError: FAILED,
    TimeoutError: TIMED_OUT,
    OSError: DISCONNECTED,
    ValueError: INVALID,
}
"""The most derived class of an exception that is listed here decides."""

FOREIGN_ERRORS: Final = tuple(ERROR_MAP)

_LIBRARIES: Final = ("adapters", "aiohttp", "httpx2", "openai")
"""Top-level packages whose errors decide over others in the same chain, the most reliable first."""

_REPEATABLE: Final = frozenset({408, 409, 500, 502, 503, 529})
"""Statuses of requests that were not processed, by convention."""

_RATE_LIMIT_CODES: Final = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "insufficient_quota", "too_many_requests"}
)
_AUTH_CODES: Final = frozenset({"invalid_api_key", "authentication_error", "permission_error", "permission_denied"})
_CONTEXT_CODES: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTEXT_TEXT: Final = re.compile(r"context.{0,30}(length|size|window)|(exceed|larger|too).{0,60}context", re.I | re.S)
_SAFE_TO_LOG: Final = re.compile(r"[a-z_]{1,48}")


def from_exception(error: Exception, *, streaming: bool) -> LLMError:
    """Translate an exception of a library."""
    translation = translation_of(type(_most_reliable(error)))
    failure = (translation.streaming if streaming else translation.waiting)()
    failure.repeatable = translation.repeatable and not streaming
    failure.__cause__ = foreign_error(error)
    return failure


def translation_of(foreign: type[BaseException]) -> Translation:
    """Look a class up. Raises: KeyError: Neither it nor a base of it is in the map."""
    return ERROR_MAP[next((base for base in foreign.__mro__ if base in ERROR_MAP), foreign)]


def from_status(error: openai.APIStatusError) -> LLMError:
    """Translate a response whose status is not 2xx."""
    status = error.status_code
    failure = _from_body(status, error.body)
    failure.retry_after = parse_retry_after(error.response.headers, datetime.now(UTC))
    if type(failure) is LLMFailed:
        failure.repeatable = status in _REPEATABLE
    names = [name for name in (error.code, error.type, error.param) if name and _SAFE_TO_LOG.fullmatch(name)]
    failure.__cause__ = foreign_error(error, *names)
    return failure


def from_event(error: object) -> LLMError:
    """Translate an error that the service sent within the stream."""
    failure = _from_body(None, error)
    failure.repeatable = False
    return failure


def _from_body(status: int | None, body: object) -> LLMError:
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {"message": body}
    codes = {str(fields.get("code")), str(fields.get("type"))}
    if status is None:
        numbers = (fields.get("code"), fields.get("status"), fields.get("status_code"))
        status = next((number for number in numbers if isinstance(number, int) and 300 <= number < 600), None)
    detail = f"The model's service answered {status}." if status else None
    if status == 407:
        return LLMUnreachable("The proxy refused our credentials.")
    if status in (401, 403) or codes & _AUTH_CODES:
        return LLMAuthFailed(detail)
    if codes & _CONTEXT_CODES or status == 413:
        return LLMContextTooLong()
    if status == 429 or codes & _RATE_LIMIT_CODES:
        limited = LLMRateLimited(detail)
        limited.repeatable = "insufficient_quota" not in codes
        return limited
    if status in (None, 400, 422) and _CONTEXT_TEXT.search(str(fields.get("message"))):
        return LLMContextTooLong()
    if status is None:
        return LLMFailed()
    if status < 300:
        return LLMInvalid(detail)
    if status < 400:
        return LLMRedirected(detail)
    if status in (408, 504, 524):
        timeout = LLMTimeout(detail)
        timeout.repeatable = status in _REPEATABLE
        return timeout
    return (LLMFailed if status >= 500 or status in _REPEATABLE else LLMRefused)(detail)


def _most_reliable(error: Exception) -> BaseException:
    """Return the innermost error of the most reliable library in the chain, or `error` if there is none."""
    for library in _LIBRARIES:
        links = [link for link in exception_chain(error) if type(link).__module__.partition(".")[0] == library]
        if links:
            return links[-1]
    return error
