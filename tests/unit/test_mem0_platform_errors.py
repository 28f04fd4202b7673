"""The error map for mem0's client of its platform."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

import httpx
import pytest

from adapters.error_translation import ForeignError
from adapters.mem0_import import import_mem0
from adapters.mem0_platform.errors import ABSENT, is_pool_timeout, mapped_type, translate
from application.ports.memory import MemoryMisconfigured, MemoryNotReady, MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound

mem0 = import_mem0(Path(mkdtemp()))

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
REQUEST = httpx.Request("POST", "http://127.0.0.1/")


def exceptions_of(module: object) -> Iterator[type[Exception]]:
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


EXPORTED = [*exceptions_of(mem0.exceptions), *exceptions_of(mem0.client.utils), *exceptions_of(httpx)]


@pytest.mark.parametrize("foreign", EXPORTED, ids=lambda error: f"{error.__module__}.{error.__qualname__}")
def test_every_exported_exception_is_in_the_map(foreign: type[Exception]) -> None:
    assert mapped_type(foreign) in (MemoryUnavailable, MemoryRefused, MemoryNotReady)


def test_the_exported_exceptions_are_found() -> None:
    names = {error.__name__ for error in EXPORTED}
    assert names >= {"RateLimitError", "LLMError", "APIError", "PoolTimeout", "InvalidURL"}


@pytest.mark.parametrize(
    ("foreign", "expected"),
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
def test_the_entry_of_the_most_derived_class_counts(foreign: type[Exception], expected: type[ChatError] | None) -> None:
    assert mapped_type(foreign) is expected


def refusal(status: int, **headers: str) -> Exception:
    """A response with an error status, as mem0's client raises it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, request=REQUEST, json={"detail": "secret"})
    error = mem0.exceptions.create_exception_from_response(status, "secret")
    assert isinstance(error, Exception)
    error.__context__ = httpx.HTTPStatusError("secret", request=REQUEST, response=response)
    return error


@pytest.mark.parametrize(("status", "setting"), [(401, "MEM0_API_KEY"), (403, "MEM0_API_KEY"), (404, "MEM0_HOST")])
def test_a_status_that_the_operator_has_to_fix_names_the_setting(status: int, setting: str) -> None:
    failure = translate(refusal(status), (), NOW)

    assert (type(failure), failure.retryable) == (MemoryMisconfigured, False)
    assert failure.detail == f"The memory platform answered {status}; check {setting}."


@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 413, 414, 422, 451])
def test_permanent_statuses_refuse_the_request(status: int) -> None:
    assert type(translate(refusal(status), (), NOW)) is MemoryRefused


@pytest.mark.parametrize("status", [301, 307, 408, 425, 429, 500, 501, 502, 503, 504, 520])
def test_temporary_statuses_make_memory_unavailable(status: int) -> None:
    assert type(translate(refusal(status), ABSENT, NOW)) is MemoryUnavailable


@pytest.mark.parametrize("status", [404, 410])
def test_a_path_that_names_nothing_is_not_found(status: int) -> None:
    assert type(translate(refusal(status), ABSENT, NOW)) is MemoryNotFound


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("Sun, 01 Nov 2026 12:01:00 GMT", 60), ("soon", None)])
def test_a_retry_after_header_is_passed_on(value: str, seconds: float | None) -> None:
    assert translate(refusal(429, retry_after=value), (), NOW).retry_after == seconds


def test_the_platforms_text_is_not_repeated() -> None:
    error = translate(refusal(400), (), NOW)
    assert str(error) == "The memory platform answered 400."
    assert isinstance(error.__cause__, ForeignError)
    assert str(error.__cause__) == "mem0.exceptions.ValidationError from httpx.HTTPStatusError"


def test_an_unmapped_exception_is_raised_unchanged() -> None:
    bug = AttributeError("a bug")
    with pytest.raises(AttributeError) as raised:
        translate(bug, (), NOW)
    assert raised.value is bug


def test_a_pool_timeout_is_recognized_inside_mem0s_error() -> None:
    error = mem0.exceptions.NetworkError("timed out", error_code="NET_TIMEOUT")
    error.__context__ = httpx.PoolTimeout("")
    assert is_pool_timeout(error)
    assert not is_pool_timeout(mem0.exceptions.NetworkError("timed out", error_code="NET_TIMEOUT"))
