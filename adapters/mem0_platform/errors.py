"""What errors of mem0's client and of its HTTP library mean to us.

Nothing that the platform wrote gets into our errors or their causes: it may repeat our key or a user's text.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from application.ports.memory import MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound


class ForeignError(Exception):
    """Stands for an error of a library as the cause of ours: its names and numbers, without its text."""


MEANINGS: Final[Mapping[str, type[ChatError]]] = {
    "mem0.exceptions.MemoryError": MemoryUnavailable,
    "mem0.exceptions.AuthenticationError": MemoryRefused,
    "mem0.exceptions.ConfigurationError": MemoryRefused,
    "mem0.exceptions.DependencyError": MemoryRefused,
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
"""By name, since importing mem0 takes a second and has its rules. The most derived class that an error is of counts;
where an answer with a status is behind an error, the status does instead."""

ABSENT: Final = frozenset({404, 410})
"""Statuses that mean that what a path names is not there."""

_LATER: Final = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may do."""


def of_exception(error: Exception, absent: Collection[int]) -> ChatError:
    """What to raise for an error of a library. Statuses in `absent` mean that there is no such memory.

    Raises:
        Exception: `error` itself, where it is none that a library is known for.
    """
    chain = list(_chain(error))
    answer = next((link.response for link in chain if isinstance(link, httpx.HTTPStatusError)), None)
    meaning = meaning_of(type(error))
    if meaning is None:
        raise error
    failure = meaning() if answer is None else _of_answer(answer, absent)
    names = [f"{type(link).__module__}.{type(link).__qualname__}" for link in chain]
    failure.__cause__ = ForeignError(" from ".join(names))
    return failure


def meaning_of(foreign: type[BaseException]) -> type[ChatError] | None:
    """What an error of this class is to us; None where it is not ours to explain."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in foreign.__mro__)
    return next((MEANINGS[name] for name in names if name in MEANINGS), None)


def is_pool_timeout(error: Exception) -> bool:
    """Whether no connection became free in time, so that nothing was sent."""
    return any(isinstance(link, httpx.PoolTimeout) for link in _chain(error))


def _of_answer(answer: httpx.Response, absent: Collection[int]) -> ChatError:
    status = answer.status_code
    if status in absent:
        return MemoryNotFound()
    said = f"The memory platform answered {status}."
    if status < 400 or status >= 500 or status in _LATER:
        return MemoryUnavailable(said, retry_after=_retry_after(answer.headers))
    return MemoryRefused(said)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait; None where the header is missing or can not be read."""
    value = headers.get("retry-after", "")
    try:
        try:
            seconds = float(value)
        except ValueError:
            date = parsedate_to_datetime(value)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
