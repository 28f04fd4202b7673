"""Maps exceptions of mem0's client and of httpx to errors of the port.

No text from the platform gets into our errors or their causes: it may repeat the key or quote users.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from json import JSONDecodeError
from typing import Final

import httpx

from adapters.error_translation import exception_chain, foreign_error
from adapters.mem0_platform.hints import connection_failure
from adapters.mem0_proxies import PROXY_AUTH_REQUIRED, credentials_refused
from adapters.retry_after import parse_retry_after
from application.ports.memory import MemoryMisconfigured, MemoryNotReady, MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound

ERROR_MAP: Final[Mapping[str, type[ChatError]]] = {
    "mem0.exceptions.MemoryError": MemoryUnavailable,
    "mem0.exceptions.AuthenticationError": MemoryNotReady,
    "mem0.exceptions.ConfigurationError": MemoryNotReady,
    "mem0.exceptions.DependencyError": MemoryNotReady,
    "mem0.exceptions.MemoryQuotaExceededError": MemoryRefused,
    "mem0.exceptions.ValidationError": MemoryRefused,
    "mem0.client.utils.APIError": MemoryUnavailable,
    "httpx.HTTPError": MemoryUnavailable,
    "httpx.LocalProtocolError": MemoryRefused,
    "httpx.UnsupportedProtocol": MemoryRefused,
    "httpx.InvalidURL": MemoryRefused,
    "httpx.CookieConflict": MemoryUnavailable,
    "httpx.StreamError": MemoryUnavailable,
    "builtins.OSError": MemoryUnavailable,
    "builtins.UnicodeEncodeError": MemoryRefused,
    "builtins.ValueError": MemoryUnavailable,
}
"""By qualified name, because importing mem0 takes seconds. The entry for the most derived class of an error counts. If
a response caused the error, its status decides instead."""

ABSENT: Final = frozenset({404, 410})
"""Statuses that mean that the path names nothing."""

_RETRYABLE: Final = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed."""

_CHECK: Final = {401: "MEM0_API_KEY", 403: "MEM0_API_KEY", 404: "MEM0_HOST"}
"""Statuses that reject every request until the operator corrects a setting."""


def translate(error: Exception, absent: Collection[int], now: datetime, url: str = "") -> ChatError:
    """Return the error to raise for an exception of a library.

    Statuses in `absent` become `MemoryNotFound`. `now` is needed for a `Retry-After` that is a date, and `url`, that of
    the platform, to blame its proxy.

    Raises:
        Exception: `error` itself, if the map has no entry for it.
    """
    mapped = mapped_type(type(error))
    if mapped is None:
        raise error
    chain = list(exception_chain(error))
    response = next((link.response for link in chain if isinstance(link, httpx.HTTPStatusError)), None)
    failure: ChatError
    if response is not None:
        failure = _from_response(response, absent, now, url)
    elif is_pool_timeout(error):
        failure = mapped()
    else:
        failure = connection_failure(error, url) or mapped(_detail(chain))
    failure.__cause__ = foreign_error(error)
    return failure


def mapped_type(foreign: type[BaseException]) -> type[ChatError] | None:
    """Look up an exception class in the error map."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in foreign.__mro__)
    return next((ERROR_MAP[name] for name in names if name in ERROR_MAP), None)


def is_pool_timeout(error: Exception) -> bool:
    """Whether no connection of the pool became free in time, so that nothing was sent."""
    return any(isinstance(link, httpx.PoolTimeout) for link in exception_chain(error))


def _detail(chain: Sequence[BaseException]) -> str | None:
    if any(isinstance(link, (TimeoutError, httpx.TimeoutException)) for link in chain):
        return "The memory platform did not respond in time; check MEM0_HOST if this lasts."
    if any(isinstance(link, JSONDecodeError | UnicodeDecodeError) for link in chain):
        return "The memory platform's response is not JSON; check MEM0_HOST."
    return None


def _from_response(response: httpx.Response, absent: Collection[int], now: datetime, url: str) -> ChatError:
    status = response.status_code
    if status in absent:
        return MemoryNotFound()
    detail = f"The memory platform answered {status}" + (
        "; check MEM0_HOST." if response.has_redirect_location else "."
    )
    if status < 400 or status >= 500 or status in _RETRYABLE:
        return MemoryUnavailable(detail, retry_after=parse_retry_after(response.headers, now))
    if status == PROXY_AUTH_REQUIRED:
        return MemoryMisconfigured(credentials_refused(url))
    if setting := _CHECK.get(status):
        return MemoryMisconfigured(f"The memory platform answered {status}; check {setting}.")
    return MemoryRefused(detail)
