"""The error map for Mem0 and the libraries below it."""

import json
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import httpx2
import openai
import psycopg
import psycopg_pool
import pytest
from qdrant_client.http import exceptions as qdrant

from adapters.error_translation import ForeignError
from adapters.mem0_import import import_mem0
from application.ports.memory import (
    FactsNotExtracted,
    LongTermMemoryError,
    MemoryMisconfigured,
    MemoryNotReady,
    MemoryRefused,
    MemoryUnavailable,
)
from domain.errors import MemoryNotFound

with TemporaryDirectory() as directory:
    import_mem0(Path(directory))  # before anything imports Mem0 with its defaults
    from mem0 import exceptions as mem0

    from adapters.mem0_library.errors import ERROR_MAP, mapped_type, probe_failure, translate

REQUEST = httpx2.Request("POST", "http://127.0.0.1/")

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")

NOT_RAISED = {"Warning", "Rollback"}
"""Exception classes that the database drivers never raise to their callers."""


def exceptions_of(module: object) -> Iterator[type[Exception]]:
    for name in dir(module):
        value = getattr(module, name)
        if not isinstance(value, type) or name in NOT_RAISED:
            continue
        if issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


def map_entry(foreign: type[Exception]) -> type[BaseException]:
    """The class under which an exception is found in the map."""
    return next(base for base in foreign.__mro__ if base in ERROR_MAP)


EXPORTED = {
    error
    for module in (mem0, openai, httpx, httpx2, psycopg, psycopg_pool, qdrant, sqlite3)
    for error in exceptions_of(module)
}


@pytest.mark.parametrize(
    "foreign", sorted(EXPORTED, key=str), ids=lambda error: f"{error.__module__}.{error.__qualname__}"
)
def test_every_exported_exception_is_in_the_map(foreign: type[Exception]) -> None:
    assert map_entry(foreign) is not Exception
    assert issubclass(mapped_type(foreign), LongTermMemoryError | MemoryNotFound)


@pytest.mark.parametrize("foreign", list(exceptions_of(mem0)), ids=lambda error: error.__qualname__)
def test_exceptions_of_mem0_are_translated_without_their_text(foreign: Callable[..., Exception]) -> None:
    failure = translate(foreign("secret", error_code="X"))

    assert "secret" not in f"{failure} {failure.__cause__}"


def status(code: int) -> openai.APIStatusError:
    kinds = {400: openai.BadRequestError, 401: openai.AuthenticationError, 422: openai.UnprocessableEntityError}
    kind = kinds.get(code, openai.APIStatusError)
    return kind("secret", response=httpx2.Response(code, request=REQUEST), body=None)


def wrapped(inner: Exception) -> Exception:
    """An error of the model's service as Mem0 raises it."""
    error: Exception = mem0.LLMError("secret")
    error.__cause__ = inner
    return error


def out_of_credit(code: int) -> openai.APIStatusError:
    body = {"message": "secret", "type": "insufficient_quota", "code": "insufficient_quota"}
    return openai.RateLimitError("secret", response=httpx2.Response(code, request=REQUEST), body=body)


def caused_by(inner: Exception, url: str = "http://127.0.0.1/") -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=httpx2.Request("POST", url))
    error.__cause__ = inner
    return error


def untrusted() -> openai.APIConnectionError:
    return caused_by(ssl.SSLCertVerificationError("secret"))


def unreachable() -> openai.APIConnectionError:
    return caused_by(ConnectionRefusedError(111, "secret"))


def unknown_model() -> openai.APIStatusError:
    body = {"message": "secret", "code": "model_not_found"}
    return openai.BadRequestError("secret", response=httpx2.Response(400, request=REQUEST), body=body)


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [
        (mem0.LLMError("secret"), MemoryUnavailable),
        (mem0.ValidationError("secret", "X"), MemoryRefused),
        (mem0.MemoryNotFoundError("secret", "X"), MemoryNotFound),
        (wrapped(status(400)), MemoryRefused),
        (wrapped(status(401)), MemoryMisconfigured),
        (status(403), MemoryMisconfigured),
        (status(404), MemoryMisconfigured),
        (qdrant.UnexpectedResponse(401, "secret", b"secret", httpx.Headers()), MemoryMisconfigured),
        (qdrant.UnexpectedResponse(404, "secret", b"secret", httpx.Headers()), MemoryNotReady),
        (unknown_model(), MemoryMisconfigured),
        (out_of_credit(429), MemoryMisconfigured),
        (wrapped(out_of_credit(402)), MemoryMisconfigured),
        (status(429), MemoryUnavailable),
        (status(407), MemoryMisconfigured),
        (untrusted(), MemoryMisconfigured),
        (status(402), MemoryUnavailable),
        (wrapped(status(500)), MemoryUnavailable),
        (status(413), MemoryRefused),
        (status(422), MemoryRefused),
        (openai.APITimeoutError(REQUEST), MemoryUnavailable),
        (json.JSONDecodeError("secret", "secret", 0), MemoryUnavailable),
        (ValueError("secret"), MemoryRefused),
        (UnicodeEncodeError("utf-8", "secret", 0, 1, "secret"), MemoryRefused),
        (psycopg.errors.UndefinedTable("secret"), MemoryUnavailable),
        (psycopg.errors.UntranslatableCharacter("secret"), MemoryRefused),
        (psycopg_pool.PoolTimeout("secret"), MemoryUnavailable),
        (sqlite3.OperationalError("secret"), MemoryUnavailable),
        (ConnectionResetError(104, "secret"), MemoryUnavailable),
        (KeyError("secret"), MemoryUnavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_exception_is_translated(foreign: Exception, expected: type[Exception]) -> None:
    failure = translate(foreign)

    assert type(failure) is expected
    assert isinstance(failure.__cause__, ForeignError)
    assert "secret" not in f"{failure} {failure.__cause__}"


@pytest.mark.parametrize(
    ("foreign", "detail"),
    [
        (wrapped(unreachable()), "The model's service cannot be reached (refused); check OPENAI_BASE_URL."),
        (unreachable(), "The embedding service cannot be reached (refused); check OPENAI_BASE_URL."),
        (wrapped(status(500)), "The model's service answered with HTTP 500."),
        (status(429), "The embedding service answered with HTTP 429."),
        (
            wrapped(openai.APITimeoutError(REQUEST)),
            "The model's service did not respond in time; check OPENAI_BASE_URL",
        ),
        (
            qdrant.ResponseHandlingException(ConnectionRefusedError(111, "secret")),
            "The store of the memories cannot be reached (refused); check MEM0_VECTOR_STORE.",
        ),
        (
            psycopg.OperationalError("secret"),
            "The store of the memories failed; check MEM0_VECTOR_STORE if this lasts.",
        ),
    ],
)
def test_a_temporary_failure_names_the_service_and_the_setting(foreign: Exception, detail: str) -> None:
    failure = translate(foreign)

    assert type(failure) is MemoryUnavailable
    assert failure.detail.startswith(detail)


def test_errors_of_ours_are_returned_unchanged() -> None:
    ours = MemoryNotFound()

    assert translate(ours) is ours


def test_an_error_of_ours_that_mem0_has_wrapped_is_returned() -> None:
    ours = FactsNotExtracted()

    assert translate(wrapped(ours)) is ours


@pytest.mark.parametrize(
    ("foreign", "settings"),
    [
        (status(404), ("MEM0_EMBEDDING_MODEL", "OPENAI_BASE_URL")),
        (status(401), ("OPENAI_API_KEY",)),
        (wrapped(status(404)), ("OPENAI_MODEL", "OPENAI_BASE_URL")),
        (wrapped(status(403)), ("OPENAI_API_KEY",)),
        (qdrant.UnexpectedResponse(403, "secret", b"secret", httpx.Headers()), ("MEM0_VECTOR_STORE",)),
        (out_of_credit(429), ("plan and credit of the account of OPENAI_API_KEY",)),
        (untrusted(), ("SSL_CERT_FILE", "OPENAI_BASE_URL")),
    ],
)
def test_an_error_of_the_configuration_names_the_setting(foreign: Exception, settings: tuple[str, ...]) -> None:
    detail = str(translate(foreign))

    assert [] == [setting for setting in settings if setting not in detail]


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        (status(404), "does not know the model (HTTP 404)"),
        (status(401), "rejected the credentials (HTTP 401)"),
        (status(500), "HTTP 500; check MEM0_EMBEDDING_MODEL and OPENAI_BASE_URL, or set MEM0_EMBEDDER=local."),
        (status(429), "limits the rate of requests (HTTP 429)"),
        (out_of_credit(429), "(HTTP 429); check the plan and credit of the account of OPENAI_API_KEY."),
        (untrusted(), "(certificate); check SSL_CERT_FILE or OPENAI_BASE_URL."),
        (openai.APITimeoutError(REQUEST), "did not respond in time to a test request; check OPENAI_BASE_URL."),
        (openai.APIConnectionError(request=REQUEST), "cannot be reached"),
        (AttributeError("secret"), "something other than a vector"),
    ],
)
def test_a_failed_probe_is_explained_in_words(foreign: Exception, words: str) -> None:
    failure = probe_failure(foreign)

    assert words in failure.detail
    assert "secret" not in f"{failure} {failure.__cause__}"


PROXY_DOES_NOT_CONNECT = (
    "The proxy does not connect to the embedding service; check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
)


@pytest.mark.parametrize(
    "foreign",
    [
        caused_by(ConnectionRefusedError(111, "secret"), "http://model.test/v1"),
        caused_by(httpx2.ProxyError("502 secret"), "http://model.test/v1"),
    ],
)
def test_a_proxy_that_does_not_connect_is_blamed_instead_of_the_service(
    foreign: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")

    assert PROXY_DOES_NOT_CONNECT == translate(foreign).detail == probe_failure(foreign).detail


@pytest.mark.parametrize(
    "foreign", [status(407), caused_by(httpx2.ProxyError("407 secret"), "https://model.test/v1")], ids=["http", "https"]
)
def test_a_proxy_that_rejects_the_credentials_is_named(foreign: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.test:3128")
    monkeypatch.setenv("http_proxy", "http://user:secret@proxy.test:3128")
    failure = probe_failure(foreign)

    assert type(failure) is MemoryMisconfigured
    assert failure.detail == (
        "The proxy proxy.test:3128 refused our credentials (HTTP 407); "
        "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
    )


@pytest.mark.parametrize("foreign", [status(401), status(404), out_of_credit(429), untrusted(), status(407)])
def test_what_only_the_operator_can_fix_is_not_retryable(foreign: Exception) -> None:
    assert (False, False) == (translate(foreign).retryable, probe_failure(foreign).retryable)
