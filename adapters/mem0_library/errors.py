"""Maps exceptions of Mem0 and of the libraries below it to errors of the port.

No text of theirs gets into our errors or their causes: it may quote users or a key. Importing this module imports the
libraries, so it is imported only after `import_mem0`.
"""

import sqlite3
from collections.abc import Mapping
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

from adapters.error_translation import exception_chain, foreign_error
from application.ports.memory import MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound

ERROR_MAP: Final[Mapping[type[Exception], type[ChatError]]] = {
    mem0.MemoryError: MemoryUnavailable,
    mem0.MemoryNotFoundError: MemoryNotFound,
    mem0.ValidationError: MemoryRefused,
    mem0.MemoryQuotaExceededError: MemoryRefused,
    openai.OpenAIError: MemoryUnavailable,
    # A wrong key or model name is fixed by the operator, so it is worth trying again.
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

_CONTENT_TOO_LARGE: Final = 413


def translate(error: Exception) -> ChatError:
    """Return the error to raise for an exception of a library. Errors of ours are returned as they are."""
    if isinstance(error, ChatError):
        return error
    chain = list(exception_chain(error))
    origin = chain[1] if isinstance(error, _WRAPPERS) and len(chain) > 1 else error
    failure = mapped_type(type(origin))()
    if isinstance(origin, openai.APIStatusError) and origin.status_code == _CONTENT_TOO_LARGE:
        failure = MemoryRefused()
    failure.__cause__ = foreign_error(error)
    return failure


def mapped_type(foreign: type[BaseException]) -> type[ChatError]:
    """Look up an exception class in the error map."""
    return next((ERROR_MAP[base] for base in foreign.__mro__ if base in ERROR_MAP), MemoryUnavailable)
