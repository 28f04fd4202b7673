"""The table of foreign errors: complete, and saying what it should."""

import ast
import builtins
import inspect
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from types import ModuleType

import httptools
import httpx2
import openai
import orjson
import pytest

from adapters.openai_api import connection, connections, proxy
from adapters.openai_api.connection import Unreadable
from adapters.openai_api.connections import NotConnected
from adapters.openai_api.errors import FOREIGN, ForeignError, Meaning, meaning_of, of_event, of_exception, of_status
from application.ports.llm import (
    LLMAuthFailed,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMIdle,
    LLMInvalid,
    LLMRateLimited,
    LLMRefused,
    LLMTimeout,
    LLMUnreachable,
)

ROOTS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.CookieConflict,
    httpx2.StreamError,
    NotConnected,
    Unreadable,
    OSError,
    ssl.SSLError,
    orjson.JSONDecodeError,
    UnicodeError,
)
REQUEST = httpx2.Request("POST", "http://127.0.0.1/")


def family(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for derived in root.__subclasses__():
        yield from family(derived)


def exceptions_of(module: object) -> Iterator[type[Exception]]:
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


EXPLAINED = sorted({error for root in ROOTS for error in family(root)}, key=lambda error: error.__qualname__)


@pytest.mark.parametrize("foreign", EXPLAINED, ids=lambda error: f"{error.__module__}.{error.__qualname__}")
def test_every_foreign_error_has_a_meaning(foreign: type[Exception]) -> None:
    assert isinstance(meaning_of(foreign), Meaning)


@pytest.mark.parametrize("module", [openai, httpx2, connection, connections], ids=lambda module: module.__name__)
def test_nothing_shows_an_error_outside_of_the_table(module: object) -> None:
    unknown = {error.__name__ for error in exceptions_of(module) if not issubclass(error, FOREIGN)}
    assert unknown == set()


def made_in(module: ModuleType) -> Iterator[type[Exception]]:
    """The errors whose making, or raising, stands in the source of a module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        named = node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
        value = {**vars(builtins), **vars(module)}.get(named.id) if isinstance(named, ast.Name) else None
        if isinstance(value, type) and issubclass(value, Exception):
            yield value


@pytest.mark.parametrize(
    ("module", "made"),
    [
        (connection, {Unreadable, ConnectionResetError}),
        (connections, {NotConnected, OSError, ConnectionRefusedError, ConnectionResetError}),
        (proxy, set()),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_connection_raises_is_in_the_table(module: ModuleType, made: set[type[Exception]]) -> None:
    assert made == set(made_in(module))
    assert {error for error in made if not issubclass(error, FOREIGN)} == set()


@pytest.mark.parametrize(
    ("foreign", "waiting", "streaming", "repeatable"),
    [
        (NotConnected, LLMUnreachable, LLMDisconnected, True),
        (Unreadable, LLMInvalid, LLMInvalid, False),
        (httpx2.ReadTimeout, LLMTimeout, LLMIdle, False),
        (httpx2.ConnectError, LLMUnreachable, LLMDisconnected, True),
        (TimeoutError, LLMTimeout, LLMIdle, False),
        (ConnectionResetError, LLMDisconnected, LLMDisconnected, False),
        (ssl.SSLEOFError, LLMDisconnected, LLMDisconnected, False),
        (UnicodeEncodeError, LLMInvalid, LLMInvalid, False),
        (openai.APITimeoutError, LLMTimeout, LLMIdle, False),
    ],
)
def test_the_most_derived_class_counts(
    foreign: type[Exception], waiting: type[LLMError], streaming: type[LLMError], repeatable: bool
) -> None:
    assert meaning_of(foreign) == Meaning(waiting, streaming, repeatable)


def chained(*errors: Exception) -> Exception:
    for outer, inner in pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (chained(openai.APITimeoutError(REQUEST), httpx2.ReadError("")), LLMDisconnected),
        (chained(NotConnected(), TimeoutError()), LLMUnreachable),
        (chained(NotConnected(), Unreadable()), LLMUnreachable),
        (chained(Unreadable(), httptools.HttpParserError()), LLMInvalid),
        (chained(httpx2.ReadError(""), NotConnected()), LLMUnreachable),
    ],
)
def test_the_lowest_library_is_believed_and_we_are_above_all(error: Exception, expected: type[LLMError]) -> None:
    assert type(of_exception(error, streaming=False)) is expected


def test_the_cause_holds_names_and_numbers_only() -> None:
    error = chained(NotConnected("secret"), ConnectionResetError(104, "secret"))
    cause = of_exception(error, streaming=True).__cause__
    assert isinstance(cause, ForeignError)
    assert str(cause) == ("adapters.openai_api.connections.NotConnected from builtins.ConnectionResetError [Errno 104]")


def refusal(status: int, body: object = None, **headers: str) -> LLMError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, request=REQUEST)
    return of_status(openai.APIStatusError("secret", response=response, body=body))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"code": "context_length_exceeded"}, LLMContextTooLong),
        (400, {"code": 400, "type": "exceed_context_size_error"}, LLMContextTooLong),
        (400, {"message": "This model's maximum context length is 8192 tokens."}, LLMContextTooLong),
        (400, {"message": "prompt exceeds the available context size"}, LLMContextTooLong),
        (400, {"message": "Unknown model"}, LLMRefused),
        (400, "too large for the context window", LLMContextTooLong),
        (429, {"code": "insufficient_quota"}, LLMRateLimited),
        (403, None, LLMAuthFailed),
        (529, None, LLMFailed),
        (501, None, LLMFailed),
        (500, {"message": "the context window was exceeded"}, LLMFailed),
    ],
)
def test_a_refusal_is_told_by_its_status_and_its_code(status: int, body: object, error: type[LLMError]) -> None:
    assert type(refusal(status, body)) is error


@pytest.mark.parametrize(
    ("status", "body", "repeatable"),
    [
        (429, {"code": "rate_limit_exceeded"}, True),
        (429, {"code": "insufficient_quota"}, False),
        (503, None, True),
        (501, None, False),
        (504, None, False),
    ],
)
def test_only_what_was_not_worked_on_is_repeatable(status: int, body: object, repeatable: bool) -> None:
    assert refusal(status, body).repeatable is repeatable


def test_a_rate_limit_inside_of_a_stream_is_not_repeatable() -> None:
    assert of_event({"code": "rate_limit_exceeded"}).repeatable is False


@pytest.mark.parametrize("error", ["gone", None, 5, [], {"code": {}, "type": None, "message": 7}])
def test_an_error_of_any_shape_is_an_error(error: object) -> None:
    assert type(of_event(error)) is LLMFailed


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "250", "retry_after": "7"}, 0.25),
        ({"retry_after": "-3"}, 0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after_ms": "x"}, None),
        ({}, None),
    ],
)
def test_the_time_to_come_back_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert refusal(429, **headers).retry_after == seconds


def test_the_time_to_come_back_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert refusal(503, retry_after=date).retry_after == pytest.approx(60, abs=5)


def test_what_a_refusal_says_is_not_repeated() -> None:
    error = refusal(404, {"message": "secret", "code": "sk-SECRET", "type": "model_not_found", "param": "model"})
    assert str(error) == "The model's service answered 404."
    assert str(error.__cause__) == "openai.APIStatusError 404 model_not_found model"


def test_invalid_json_is_a_value_error() -> None:
    assert type(of_exception(orjson.JSONDecodeError("secret", "secret", 0), streaming=True)) is LLMInvalid
