"""The error map for the SDK, its HTTP libraries and the service: completeness, and the translation of each error."""

import socket
import ssl
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

import aiohttp
import aiohttp.http_exceptions
import httpx2
import openai
import orjson
import pytest

from adapters.error_translation import ForeignError
from adapters.openai_api.errors import (
    FOREIGN_ERRORS,
    Translation,
    from_event,
    from_exception,
    from_status,
    translation_of,
)
from adapters.openai_api.http_client import ConnectError
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

LIBRARIES = (openai, httpx2, aiohttp, aiohttp.http_exceptions, ssl, socket)
OTHERS = (orjson.JSONDecodeError, UnicodeDecodeError, UnicodeEncodeError, TimeoutError, ConnectionResetError)
REQUEST = httpx2.Request("POST", "http://127.0.0.1/")


def exported_errors(module: ModuleType) -> Iterator[type[Exception]]:
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith("_") or not isinstance(value, type):
            continue
        if issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
def test_every_exported_error_is_in_the_map(library: ModuleType) -> None:
    exported = list(exported_errors(library))
    assert exported
    assert [error.__name__ for error in exported if not issubclass(error, FOREIGN_ERRORS)] == []
    assert {type(translation_of(error)) for error in exported} == {Translation}


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: error.__name__)
def test_errors_of_json_text_and_connections_are_in_the_map(error: type[Exception]) -> None:
    assert issubclass(error, FOREIGN_ERRORS)
    assert isinstance(translation_of(error), Translation)


@pytest.mark.parametrize(
    ("foreign", "waiting", "streaming", "repeatable"),
    [
        (ConnectError, LLMUnreachable, LLMDisconnected, True),
        (aiohttp.ClientConnectorDNSError, LLMUnreachable, LLMDisconnected, True),
        (aiohttp.ClientConnectorCertificateError, LLMUnreachable, LLMDisconnected, True),
        (aiohttp.ClientProxyConnectionError, LLMUnreachable, LLMDisconnected, True),
        (aiohttp.ClientHttpProxyError, LLMUnreachable, LLMDisconnected, True),
        (aiohttp.ConnectionTimeoutError, LLMUnreachable, LLMDisconnected, True),
        (aiohttp.SocketTimeoutError, LLMTimeout, LLMIdle, False),
        (aiohttp.ServerDisconnectedError, LLMDisconnected, LLMDisconnected, False),
        (aiohttp.ClientOSError, LLMDisconnected, LLMDisconnected, False),
        (aiohttp.ClientConnectionResetError, LLMDisconnected, LLMDisconnected, False),
        (aiohttp.ClientPayloadError, LLMDisconnected, LLMDisconnected, False),
        (aiohttp.http_exceptions.LineTooLong, LLMInvalid, LLMInvalid, False),
        (aiohttp.http_exceptions.ContentEncodingError, LLMInvalid, LLMInvalid, False),
        (aiohttp.http_exceptions.TransferEncodingError, LLMDisconnected, LLMDisconnected, False),
        (httpx2.ReadTimeout, LLMTimeout, LLMIdle, False),
        (httpx2.ConnectError, LLMUnreachable, LLMDisconnected, True),
        (TimeoutError, LLMTimeout, LLMIdle, False),
        (ConnectionResetError, LLMDisconnected, LLMDisconnected, False),
        (ssl.SSLEOFError, LLMDisconnected, LLMDisconnected, False),
        (UnicodeEncodeError, LLMInvalid, LLMInvalid, False),
        (openai.APITimeoutError, LLMTimeout, LLMIdle, False),
    ],
)
def test_the_entry_of_the_most_derived_class_counts(
    foreign: type[Exception], waiting: type[LLMError], streaming: type[LLMError], repeatable: bool
) -> None:
    assert translation_of(foreign) == Translation(waiting, streaming, repeatable)


def chained(*errors: Exception) -> Exception:
    for outer, inner in pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (chained(openai.APITimeoutError(REQUEST), httpx2.ReadError("")), LLMDisconnected),
        (chained(httpx2.ReadError(""), aiohttp.ConnectionTimeoutError()), LLMUnreachable),
        (chained(aiohttp.ConnectionTimeoutError(), TimeoutError()), LLMUnreachable),
        (chained(aiohttp.ClientPayloadError(), aiohttp.http_exceptions.ContentEncodingError("")), LLMInvalid),
        (chained(aiohttp.ClientPayloadError(), aiohttp.http_exceptions.TransferEncodingError("")), LLMDisconnected),
        (chained(ConnectError(), aiohttp.ServerDisconnectedError()), LLMUnreachable),
        (chained(TimeoutError(), ValueError()), LLMTimeout),
    ],
)
def test_in_a_chain_the_innermost_error_of_the_most_reliable_library_counts(
    error: Exception, expected: type[LLMError]
) -> None:
    assert type(from_exception(error, streaming=False)) is expected


def test_the_cause_contains_only_class_names_and_numbers() -> None:
    error = chained(aiohttp.ClientOSError(104, "secret"), ConnectionResetError(104, "secret"))
    cause = from_exception(error, streaming=True).__cause__
    assert isinstance(cause, ForeignError)
    assert str(cause) == (
        "aiohttp.client_exceptions.ClientOSError [Errno 104] from builtins.ConnectionResetError [Errno 104]"
    )


def error_response(status: int, body: object = None, **headers: str) -> LLMError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, request=REQUEST)
    return from_status(openai.APIStatusError("secret", response=response, body=body))


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
        (407, None, LLMUnreachable),
        (302, None, LLMRedirected),
        (101, None, LLMInvalid),
        (529, None, LLMFailed),
        (501, None, LLMFailed),
        (500, {"message": "the context window was exceeded"}, LLMFailed),
    ],
)
def test_the_status_and_the_code_select_the_error(status: int, body: object, error: type[LLMError]) -> None:
    assert type(error_response(status, body)) is error


@pytest.mark.parametrize(
    ("status", "body", "repeatable"),
    [
        (429, {"code": "rate_limit_exceeded"}, True),
        (429, {"code": "insufficient_quota"}, False),
        (503, None, True),
        (501, None, False),
        (407, None, False),
        (504, None, False),
    ],
)
def test_only_requests_that_were_not_processed_are_repeatable(status: int, body: object, repeatable: bool) -> None:
    assert error_response(status, body).repeatable is repeatable


def test_a_rate_limit_within_a_stream_is_not_repeatable() -> None:
    assert from_event({"code": "rate_limit_exceeded"}).repeatable is False


@pytest.mark.parametrize("error", ["gone", None, 5, [], {"code": {}, "type": None, "message": 7}])
def test_an_error_event_may_have_any_shape(error: object) -> None:
    assert type(from_event(error)) is LLMFailed


def test_retry_after_is_passed_on() -> None:
    assert error_response(429, retry_after="7").retry_after == 7


def test_the_services_message_is_not_quoted() -> None:
    error = error_response(404, {"message": "secret", "code": "sk-SECRET", "type": "model_not_found", "param": "model"})
    assert str(error) == "The model's service answered 404."
    assert str(error.__cause__) == "openai.APIStatusError 404 model_not_found model"


def test_invalid_json_is_a_value_error() -> None:
    assert type(from_exception(orjson.JSONDecodeError("secret", "secret", 0), streaming=True)) is LLMInvalid
