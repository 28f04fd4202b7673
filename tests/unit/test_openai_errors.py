"""The error map for the SDK, its HTTP libraries and the service: completeness, and the translation of each error."""

import socket
import ssl
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import aiohttp
import aiohttp.http_exceptions
import httpx2
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    LLMContentRefused,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMIdle,
    LLMInvalid,
    LLMNotConnectable,
    LLMQuotaExceeded,
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
    content = body.encode() if isinstance(body, str) else b"" if body is None else orjson.dumps(body)
    response = httpx2.Response(status, headers=named, content=content, request=REQUEST)
    return from_status(openai.APIStatusError("secret", response=response, body=None))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"code": "context_length_exceeded"}, LLMContextTooLong),
        (400, {"code": 400, "type": "exceed_context_size_error"}, LLMContextTooLong),
        (400, {"message": "This model's maximum context length is 8192 tokens."}, LLMContextTooLong),
        (400, {"message": "prompt exceeds the available context size"}, LLMContextTooLong),
        (400, {"message": "Unknown model"}, LLMRefused),
        (400, "too large for the context window", LLMContextTooLong),
        (401, None, LLMAuthFailed),
        (402, None, LLMQuotaExceeded),
        (403, None, LLMRefused),
        (403, "<html><h1>403 Forbidden</h1>You lack the permission to access this server.</html>", LLMRefused),
        (403, {"error": {"code": "unsupported_country_region_territory"}}, LLMRefused),
        (403, {"error": "Insufficient permissions"}, LLMAuthFailed),
        (403, {"message": "API key has been disabled"}, LLMAuthFailed),
        (403, {"error": {"code": 403, "message": "Your input was flagged"}}, LLMContentRefused),
        (403, {"error": {"message": "Project `p` does not have access to model `m`", "code": "model_not_found"}},
         LLMRefused),
        (400, {"error": {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}},
         LLMAuthFailed),
        (400, {"error": {"code": "content_filter"}}, LLMContentRefused),
        (400, {"error": {"message": "Content Exists Risk"}}, LLMContentRefused),
        (400, {"error": {"message": "litellm.ContentPolicyViolationError: blocked", "code": "400"}},
         LLMContentRefused),
        (400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."},
         LLMContentRefused),
        (403, {"error": {"message": "Your account has been flagged for abuse"}}, LLMRefused),
        (429, {"code": "insufficient_quota"}, LLMQuotaExceeded),
        (429, {"error": {"message": "You exceeded your current quota, please check your billing"}}, LLMQuotaExceeded),
        (429, {"error": {"message": "Quota exceeded for metric 'requests per minute'"}}, LLMRateLimited),
        (429, [{"error": {"message": "You exceeded your current quota.", "details": [{"retryDelay": "37s"}]}}],
         LLMRateLimited),
        (400, {"error": {"type": "rate_limit_error"}}, LLMRateLimited),
        (407, None, LLMNotConnectable),
        (302, None, LLMRedirected),
        (101, None, LLMInvalid),
        (408, None, LLMTimeout),
        (425, None, LLMFailed),
        (499, None, LLMFailed),
        (529, {"type": "error", "error": {"type": "overloaded_error"}}, LLMFailed),
        (501, None, LLMRefused),
        (500, {"message": "the context window was exceeded"}, LLMFailed),
        (503, {"error": {"message": "The model is loading"}}, LLMFailed),
    ],
)  # fmt: skip
def test_status_codes_and_words_select_the_error(status: int, body: object, error: type[LLMError]) -> None:
    assert type(error_response(status, body)) is error


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"code": "429", "type": "throttling_error"}, LLMRateLimited),
        ({"code": 502, "message": "Worker local total request limit reached (33/32)"}, LLMFailed),
        ({"message": "quota exceeded"}, LLMQuotaExceeded),
        ({"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
         LLMContextTooLong),
        ("Unexpected endpoint or method. (POST /chat/completions)", LLMRefused),
        ("Stream error: Internal Network Failure", LLMFailed),
        ({"type": "invalid_request_error", "message": "no"}, LLMRefused),
        ({"error": {"error": {"code": "invalid_api_key"}}}, LLMAuthFailed),
    ],
)  # fmt: skip
def test_the_fields_and_words_of_an_error_event_select_the_error(event: object, error: type[LLMError]) -> None:
    assert type(from_event(event)) is error


@pytest.mark.parametrize(
    ("status", "body", "repeatable"),
    [
        (429, {"code": "rate_limit_exceeded"}, True),
        (429, {"code": "insufficient_quota"}, False),
        (503, None, True),
        (425, None, True),
        (501, None, False),
        (407, None, False),
        (504, None, False),
    ],
)
def test_only_requests_that_were_not_processed_are_repeatable(status: int, body: object, repeatable: bool) -> None:
    assert error_response(status, body).repeatable is repeatable


def test_a_rate_limit_within_a_stream_is_not_repeatable() -> None:
    assert from_event({"code": "rate_limit_exceeded"}).repeatable is False


@pytest.mark.parametrize("error", ["gone", None, 5, [], {"code": {}, "type": None, "message": 7}, "[[[[", [[{}]]])
def test_an_error_event_may_have_any_shape(error: object) -> None:
    assert type(from_event(error)) is LLMFailed


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["error", "code", "message", "param", "loc", "detail"]) | st.text(), inner)
    ),
)


@given(JSON_VALUES, st.none() | st.integers(100, 599))
def test_no_error_body_is_too_strange_to_translate(body: Any, status: int | None) -> None:
    assert isinstance(from_event(body, status), LLMError)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (None, {"retry_after": "7"}, 7),
        ([{"error": {"code": 429, "details": [{"retryDelay": "37s"}]}}], {}, 37),
        ({"error": {"message": "Rate limit reached. Please try again in 1m2s."}}, {}, 62),
        (None, {"x_ratelimit_reset_tokens": "6m0s", "x_ratelimit_reset_requests": "1s"}, 1),
        ({"error": {"retry_after": 12}}, {"retry_after": "7"}, 7),
        ({"error": {"retry_after": 12}}, {}, 12),
        (None, {}, None),
    ],
)
def test_the_waiting_time_of_a_rate_limit_is_read_from_headers_and_body(
    body: object, headers: dict[str, str], seconds: float | None
) -> None:
    assert error_response(429, body, **headers).retry_after == seconds


def test_headers_that_come_with_every_response_are_read_only_for_rate_limits() -> None:
    assert error_response(500, None, x_ratelimit_reset_tokens="6m0s").retry_after is None


def test_the_services_message_is_not_quoted() -> None:
    error = error_response(404, {"message": "secret", "code": "sk-SECRET", "type": "model_not_found", "param": "model"})
    assert str(error) == "The model's service answered 404: check OPENAI_MODEL."
    assert str(error.__cause__) == "openai.APIStatusError 404"


@pytest.mark.parametrize(
    ("status", "body", "setting"),
    [
        (401, None, "OPENAI_API_KEY"),
        (404, "404 page not found", "/v1"),
        (404, {"error": {"message": "model 'x' not found, try pulling it first"}}, "OPENAI_MODEL"),
        (400, {"error": {"message": "Invalid value for 'temperature'"}}, "OPENAI_TEMPERATURE"),
        (307, None, "OPENAI_BASE_URL"),
        (407, None, "NO_PROXY"),
        (400, "Client sent an HTTP request to an HTTPS server.", "OPENAI_BASE_URL"),
    ],
)
def test_the_detail_names_the_setting_to_check(status: int, body: object, setting: str) -> None:
    assert setting in error_response(status, body).detail


def test_invalid_json_is_a_value_error() -> None:
    assert type(from_exception(orjson.JSONDecodeError("secret", "secret", 0), streaming=True)) is LLMInvalid
