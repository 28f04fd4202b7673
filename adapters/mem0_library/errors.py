"""Maps exceptions of Mem0 and of the libraries below it to errors of the port.

No text of theirs gets into our errors or their causes: it may quote users or a key. Importing this module imports the
libraries, so it is imported only after `import_mem0`.
"""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from json import JSONDecodeError
from typing import Final

import httpx
import httpx2
import openai
import psycopg
import psycopg_pool
import pydantic
from mem0 import exceptions as mem0
from qdrant_client.http import exceptions as qdrant

from adapters.connection_causes import connection_cause
from adapters.error_translation import exception_chain, foreign_error
from adapters.mem0_proxies import (
    CAUSES_OF_A_PROXY,
    PROXY_AUTH_REQUIRED,
    credentials_refused,
    is_proxied,
    refuses_credentials,
)
from adapters.proxies import CHECK_PROXY
from application.ports.memory import MemoryMisconfigured, MemoryNotReady, MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound

ERROR_MAP: Final[Mapping[type[Exception], type[ChatError]]] = {
    mem0.MemoryError: MemoryUnavailable,
    mem0.MemoryNotFoundError: MemoryNotFound,
    mem0.ValidationError: MemoryRefused,
    mem0.MemoryQuotaExceededError: MemoryRefused,
    openai.OpenAIError: MemoryUnavailable,
    openai.BadRequestError: MemoryRefused,
    openai.ConflictError: MemoryUnavailable,
    openai.UnprocessableEntityError: MemoryRefused,
    httpx.HTTPError: MemoryUnavailable,
    httpx.InvalidURL: MemoryUnavailable,
    httpx.CookieConflict: MemoryUnavailable,
    httpx.StreamError: MemoryUnavailable,
    httpx2.HTTPError: MemoryUnavailable,
    httpx2.InvalidURL: MemoryUnavailable,
    httpx2.CookieConflict: MemoryUnavailable,
    httpx2.StreamError: MemoryUnavailable,
    qdrant.ApiException: MemoryUnavailable,
    psycopg.Error: MemoryUnavailable,
    psycopg.DataError: MemoryRefused,
    psycopg.IntegrityError: MemoryRefused,
    psycopg_pool.PoolTimeout: MemoryUnavailable,
    sqlite3.Error: MemoryUnavailable,
    pydantic.ValidationError: MemoryUnavailable,
    JSONDecodeError: MemoryUnavailable,
    ValueError: MemoryRefused,
    TimeoutError: MemoryUnavailable,
    OSError: MemoryUnavailable,
    Exception: MemoryUnavailable,
}
"""The entry for the most derived class of an error counts. Unknown errors are taken to be temporary."""

_WRAPPERS: Final = (mem0.LLMError, mem0.EmbeddingError, mem0.VectorStoreError)
"""Mem0's wrappers around an error of a service, which is their cause."""

_STORE_ERRORS: Final = (qdrant.ApiException, psycopg.Error, psycopg_pool.PoolTimeout)

_BAD_CREDENTIALS: Final = frozenset({401, 403})
_NOT_FOUND: Final = 404
_CONTENT_TOO_LARGE: Final = 413
_TOO_MANY_REQUESTS: Final = 429
_REJECTED: Final = frozenset({400, 422})
_UNKNOWN_MODEL: Final = frozenset({"model_not_found", "invalid_model", "DeploymentNotFound"})
"""Codes by which services say that they do not know the model, with a status other than 404."""

_NO_CREDIT: Final = re.compile(r"insufficient_(user_)?(quota|balance|credits?|funds)|billing|exceeded_current_quota")
"""Codes and types of errors by which services say that the account has run out of credit, with any of these:"""
_NO_CREDIT_STATUSES: Final = frozenset({402, 403, _TOO_MANY_REQUESTS})


def translate(error: Exception) -> ChatError:
    """Return the error to raise for an exception of a library. Errors of ours are returned as they are."""
    if isinstance(error, ChatError):
        return error
    origin = _origin(error)
    if isinstance(origin, ChatError):
        return origin
    failure = misconfiguration(error) or _temporary(error) or mapped_type(type(origin))()
    if _status(origin) == _CONTENT_TOO_LARGE:
        failure = MemoryRefused()
    failure.__cause__ = foreign_error(error)
    return failure


def _temporary(error: Exception) -> MemoryUnavailable | None:
    """Return the error to raise if a service failed or could not be reached, which may be temporary."""
    origin = _origin(error)
    service, _, _, address = _names(error)
    status = _status(origin)
    if not isinstance(error, mem0.LLMError) and not isinstance(origin, (openai.OpenAIError, *_STORE_ERRORS)):
        return None
    if mapped_type(type(origin)) is not MemoryUnavailable:
        return None
    if status is not None:
        return MemoryUnavailable(f"{service} answered with HTTP {status}.")
    if sentence := _not_reached(origin, service, address):
        return MemoryUnavailable(sentence)
    if isinstance(origin, (openai.APITimeoutError, psycopg_pool.PoolTimeout)):
        return MemoryUnavailable(f"{service} did not respond in time; check {address} if this lasts.")
    return MemoryUnavailable(f"{service} failed; check {address} if this lasts.")


def _names(error: Exception) -> tuple[str, str, str, str]:
    """Return a name for the service that raised an error, and the settings of its model or data, key and address."""
    origin = _origin(error)
    if isinstance(origin, _STORE_ERRORS):
        return "The store of the memories", "MEM0_VECTOR_STORE", "MEM0_VECTOR_STORE", "MEM0_VECTOR_STORE"
    if isinstance(error, mem0.LLMError):
        return "The model's service", "OPENAI_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"
    return "The embedding service", "MEM0_EMBEDDING_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"


def misconfiguration(error: Exception) -> MemoryNotReady | None:
    """Return the error to raise if every request fails until the operator changes something.

    That is, if a service or a proxy rejected the credentials, the account has no credit, the model is unknown, or the
    certificate is not trusted.
    """
    origin = _origin(error)
    status = _status(origin)
    store = isinstance(origin, qdrant.ApiException)
    service, model, key, address = _names(error)
    if status == PROXY_AUTH_REQUIRED or refuses_credentials(origin):
        return MemoryMisconfigured(credentials_refused(request_url(origin)))
    if connection_cause(origin) == "certificate":
        return MemoryMisconfigured(f"{service} cannot be reached (certificate); check SSL_CERT_FILE or {address}.")
    words = f"{getattr(origin, 'code', None)} {getattr(origin, 'type', None)}"
    if status in _NO_CREDIT_STATUSES and _NO_CREDIT.search(words):
        return MemoryMisconfigured(
            f"{service} rejects requests for lack of credit (HTTP {status}); "
            f"check the plan and credit of the account of {key}."
        )
    if status in _BAD_CREDENTIALS:
        return MemoryMisconfigured(f"{service} rejected the credentials (HTTP {status}); check {key}.")
    if status == _NOT_FOUND and store:
        return MemoryNotReady(f"{service} does not know the collection (HTTP {status}); check {model}.")
    names_model = getattr(origin, "param", None) == "model" or getattr(origin, "code", None) in _UNKNOWN_MODEL
    if status == _NOT_FOUND or (status in _REJECTED and names_model):
        return MemoryMisconfigured(
            f"{service} does not know the model (HTTP {status}); check {model} and OPENAI_BASE_URL."
        )
    return None


def _not_reached(origin: BaseException, service: str, address: str) -> str | None:
    """Return the sentence for a failed connection, or None for any other error."""
    cause = connection_cause(origin)
    if cause == "proxy" or (cause in CAUSES_OF_A_PROXY and is_proxied(request_url(origin))):
        return f"The proxy does not connect to {service[0].lower()}{service[1:]}; {CHECK_PROXY}."
    return f"{service} cannot be reached ({cause}); check {address}." if cause else None


def probe_failure(error: Exception) -> MemoryNotReady:
    """Return the error to raise if the embedding of a test text has failed."""
    origin = _origin(error)
    status = _status(origin)
    failure = misconfiguration(error)
    if failure is None and isinstance(origin, (openai.APITimeoutError, TimeoutError)):
        failure = MemoryNotReady(
            "The embedding service did not respond in time to a test request; check OPENAI_BASE_URL."
        )
    elif failure is None and isinstance(origin, (openai.APIConnectionError, httpx.TransportError, OSError)):
        sentence = _not_reached(origin, "The embedding service", "OPENAI_BASE_URL")
        failure = MemoryNotReady(sentence or "The embedding service cannot be reached; check OPENAI_BASE_URL.")
    elif failure is None and status == _TOO_MANY_REQUESTS:
        failure = MemoryNotReady(f"The embedding service limits the rate of requests (HTTP {status}).")
    elif failure is None and status is not None:
        failure = MemoryNotReady(
            f"The embedding service answered a test request with HTTP {status}; "
            "check MEM0_EMBEDDING_MODEL and OPENAI_BASE_URL, or set MEM0_EMBEDDER=local."
        )
    failure = failure or MemoryNotReady(
        "The embedding service answered a test request with something other than a vector; check OPENAI_BASE_URL."
    )
    failure.__cause__ = foreign_error(error)
    return failure


def _origin(error: Exception) -> BaseException:
    """Return the error of a service that Mem0 has wrapped, or the error itself."""
    chain = list(exception_chain(error))
    return chain[1] if isinstance(error, _WRAPPERS) and len(chain) > 1 else error


def request_url(error: BaseException) -> str:
    """Return the URL of the request that failed, or "" if it is not known."""
    for link in exception_chain(error):
        with suppress(RuntimeError):  # httpx raises it for an error without a request
            if request := getattr(link, "request", None):
                return str(request.url)
    return ""


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that caused an error of any of the libraries."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def mapped_type(foreign: type[BaseException]) -> type[ChatError]:
    """Look up an exception class in the error map."""
    return next((ERROR_MAP[base] for base in foreign.__mro__ if base in ERROR_MAP), MemoryUnavailable)
