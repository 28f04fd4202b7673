"""Map the errors of the SDK, of its HTTP libraries and of the service to those of the LLM port.

What the service wrote may repeat credentials or a user's text: it never becomes part of a message, and is kept aside in
`RefusedByService` until it has been redacted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp
import aiohttp.http_exceptions
import httpx2
import openai

from adapters.error_translation import ForeignError, exception_chain, foreign_error
from adapters.openai_api.classification import NOT_A_CHAT, classify, is_repeatable
from adapters.openai_api.http_client import ConnectError
from adapters.openai_api.network_causes import Proxy, hint, is_lasting, network_cause
from adapters.openai_api.proxy_answers import proxy_answer
from adapters.openai_api.refusal import Refusal
from adapters.proxies import BadProxyURL
from adapters.retry_after import find_wait, parse_duration, parse_rate_limit_reset, parse_retry_after
from application.ports.llm import (
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMIdle,
    LLMInvalid,
    LLMNotConnectable,
    LLMRedirected,
    LLMTimeout,
    LLMUnreachable,
    LLMWrongAPI,
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
    BadProxyURL: NOT_CONNECTED,
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

_LIMITS: Final[Mapping[type[LLMError], str]] = {
    LLMTimeout: "The model's service did not respond in time (UPSTREAM_FIRST_BYTE_TIMEOUT).",
    LLMIdle: "The model's service stopped sending (UPSTREAM_IDLE_TIMEOUT).",
}
"""What to tell the client about the limits that these errors exceed."""

_LIBRARIES: Final = ("adapters", "aiohttp", "httpx2", "openai")
"""Top-level packages whose errors decide over others in the same chain, the most reliable first."""


def from_exception(
    error: Exception, *, streaming: bool, may_lack_tls: bool = False, proxied: Proxy | None = None
) -> LLMError:
    """Translate an exception of a library.

    Args:
        streaming: The response had begun.
        may_lack_tls: The request was sent to the service without TLS.
        proxied: The proxy of the request, if there is one.
    """
    translation = translation_of(type(_most_reliable(error)))
    cause = network_cause(error, proxied)
    kind = translation.streaming if streaming else translation.waiting
    if not streaming and is_lasting(error, cause):
        kind = LLMNotConnectable
    elif not streaming and cause.get("cause") == "not http":
        kind = LLMWrongAPI
    hint_of_cause = None if streaming else hint(error, cause, may_lack_tls=may_lack_tls)
    failure = kind(hint_of_cause or _LIMITS.get(kind))
    failure.repeatable = translation.repeatable and not streaming and failure.retryable
    failure.diagnosis = cause
    failure.__cause__ = foreign_error(error)
    return failure


def translation_of(foreign: type[BaseException]) -> Translation:
    """Return the translation of a class.

    Raises:
        KeyError: Neither it nor a base of it is in the map.
    """
    return ERROR_MAP[next((base for base in foreign.__mro__ if base in ERROR_MAP), foreign)]


def from_status(error: openai.APIStatusError) -> LLMError:
    """Translate a response whose status is not 2xx."""
    status, headers, url = error.status_code, error.response.headers, str(error.request.url)
    refusal = refusal_of(error)
    now = datetime.now(UTC)
    retry_after = parse_retry_after(headers, now)
    failure = classify(refusal, retry_after)
    facts = response_facts(status, headers, url)
    if proxy := proxy_answer(refusal, headers, url):
        failure = type(failure)(proxy.detail)
        facts |= {"cause": "proxy", "cause_detail": proxy.cause_detail}
    if retry_after is None and failure.retryable:
        retry_after = _wait_in_body(refusal)
        if retry_after is None and status == 429:
            retry_after = parse_rate_limit_reset(headers, now)
    failure.retry_after = retry_after
    if type(failure) in (LLMFailed, LLMTimeout):
        failure.repeatable = is_repeatable(refusal)
    failure.__cause__ = RefusedByService(error, refusal, facts)
    return failure


def refusal_of(error: openai.APIStatusError) -> Refusal:
    """Read the error in the body of a response."""
    return Refusal.parse(error.response.content, error.status_code)


def from_event(error: object, status: int | None = None) -> LLMError:
    """Translate an error that the service sent within a stream, or as the body of a 2xx response of this `status`."""
    refusal = Refusal.parse(error, status)
    failure = classify(refusal)
    failure.repeatable = False
    failure.retry_after = _wait_in_body(refusal) if failure.retryable else None
    failure.__cause__ = RefusedByService(None, refusal, {})
    return failure


def wrong_api(body: object) -> LLMWrongAPI:
    """Return the error for a 2xx response with this body, which is not from a chat."""
    failure = LLMWrongAPI(NOT_A_CHAT)
    failure.__cause__ = RefusedByService(None, Refusal.parse(body), {})
    return failure


def response_facts(status: int, headers: Mapping[str, str], url: str = "") -> dict[str, str | int]:
    """Return what tells a wrong address from a failing service. The texts are not redacted."""
    facts: dict[str, str | int] = {"http_status": status}
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind and kind not in ("application/json", "text/event-stream"):
        facts["content_type"] = kind
    if 300 <= status < 400 and "location" in headers:
        facts["redirect"] = _address(headers["location"], url)
    return facts


class RefusedByService(ForeignError):
    """The cause of an error that a service reported, until `Diagnostics` has redacted what it wrote."""

    def __init__(self, error: Exception | None, refusal: Refusal, facts: Mapping[str, str | int]) -> None:
        super().__init__(str(foreign_error(error)) if error else "an error in the response")
        self.refusal = refusal
        self.facts = facts


def _wait_in_body(refusal: Refusal) -> float | None:
    delays = (parse_duration(delay) for delay in refusal.retry_delays)
    return next((delay for delay in delays if delay is not None), None) or find_wait(refusal.message)


def _address(location: str, url: str) -> str:
    """Return scheme, host and path of the target of a redirect."""
    try:
        parts = urlsplit(urljoin(url, location))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return "not a URL"


def _most_reliable(error: Exception) -> BaseException:
    """Return the innermost error of the most reliable library in the chain, or `error` if there is none."""
    for library in _LIBRARIES:
        links = [link for link in exception_chain(error) if type(link).__module__.partition(".")[0] == library]
        if links:
            return links[-1]
    return error
