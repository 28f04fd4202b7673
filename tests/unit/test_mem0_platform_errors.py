"""The table of foreign errors: complete, and saying what it should."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from tempfile import mkdtemp

import httpx
import pytest

from adapters.mem0_import import import_mem0
from adapters.mem0_platform.errors import ABSENT, ForeignError, is_pool_timeout, meaning_of, of_exception
from application.ports.memory import MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound

mem0 = import_mem0(Path(mkdtemp()))

REQUEST = httpx.Request("POST", "http://127.0.0.1/")


def exceptions_of(module: object) -> Iterator[type[Exception]]:
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


EXPLAINED = [*exceptions_of(mem0.exceptions), *exceptions_of(mem0.client.utils), *exceptions_of(httpx)]


@pytest.mark.parametrize("foreign", EXPLAINED, ids=lambda error: f"{error.__module__}.{error.__qualname__}")
def test_every_foreign_error_has_a_meaning(foreign: type[Exception]) -> None:
    assert meaning_of(foreign) in (MemoryUnavailable, MemoryRefused)


def test_the_libraries_are_looked_through() -> None:
    names = {error.__name__ for error in EXPLAINED}
    assert names >= {"RateLimitError", "LLMError", "APIError", "PoolTimeout", "InvalidURL"}


@pytest.mark.parametrize(
    ("foreign", "meaning"),
    [
        (mem0.exceptions.NetworkError, MemoryUnavailable),
        (mem0.exceptions.RateLimitError, MemoryUnavailable),
        (mem0.exceptions.ValidationError, MemoryRefused),
        (mem0.exceptions.MemoryQuotaExceededError, MemoryRefused),
        (httpx.ReadTimeout, MemoryUnavailable),
        (httpx.LocalProtocolError, MemoryRefused),
        (httpx.RemoteProtocolError, MemoryUnavailable),
        (TimeoutError, MemoryUnavailable),
        (ConnectionResetError, MemoryUnavailable),
        (UnicodeEncodeError, MemoryRefused),
        (UnicodeDecodeError, MemoryUnavailable),
        (AttributeError, None),
    ],
)
def test_the_most_derived_class_counts(foreign: type[Exception], meaning: type[ChatError] | None) -> None:
    assert meaning_of(foreign) is meaning


def refusal(status: int, **headers: str) -> Exception:
    """An answer's status, as mem0's client tells of it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, request=REQUEST, json={"detail": "secret"})
    error = mem0.exceptions.create_exception_from_response(status, "secret")
    assert isinstance(error, Exception)
    error.__context__ = httpx.HTTPStatusError("secret", request=REQUEST, response=response)
    return error


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 410, 413, 414, 422, 451])
def test_what_would_fare_no_better_is_refused(status: int) -> None:
    assert type(of_exception(refusal(status), ())) is MemoryRefused


@pytest.mark.parametrize("status", [301, 307, 408, 425, 429, 500, 501, 502, 503, 504, 520])
def test_what_may_work_later_is_unavailable(status: int) -> None:
    assert type(of_exception(refusal(status), ABSENT)) is MemoryUnavailable


@pytest.mark.parametrize("status", [404, 410])
def test_what_a_path_names_may_be_absent(status: int) -> None:
    assert type(of_exception(refusal(status), ABSENT)) is MemoryNotFound


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "-3"}, 0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({}, None),
    ],
)
def test_the_time_to_come_back_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert of_exception(refusal(429, **headers), ()).retry_after == seconds


def test_the_time_to_come_back_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert of_exception(refusal(503, retry_after=date), ()).retry_after == pytest.approx(60, abs=5)


def test_what_a_refusal_says_is_not_repeated() -> None:
    error = of_exception(refusal(400), ())
    assert str(error) == "The memory platform answered 400."
    assert isinstance(error.__cause__, ForeignError)
    assert str(error.__cause__) == "mem0.exceptions.ValidationError from httpx.HTTPStatusError"


def test_what_no_library_is_known_for_is_raised_as_it_is() -> None:
    bug = AttributeError("a mistake of ours")
    with pytest.raises(AttributeError) as raised:
        of_exception(bug, ())
    assert raised.value is bug


def test_a_pool_that_is_exhausted_is_told_through_mem0s_error() -> None:
    error = mem0.exceptions.NetworkError("timed out", error_code="NET_TIMEOUT")
    error.__context__ = httpx.PoolTimeout("")
    assert is_pool_timeout(error)
    assert not is_pool_timeout(mem0.exceptions.NetworkError("timed out", error_code="NET_TIMEOUT"))
