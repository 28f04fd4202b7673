"""What errors of Mem0 and of the libraries below it mean to us.

Nothing that they say gets into our errors or their causes: it may quote what people said, or a key.
Importing this imports the libraries: only where Mem0 itself is imported.
"""

import sqlite3
from collections.abc import Iterator, Mapping
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

from application.ports.memory import MemoryRefused, MemoryUnavailable
from domain.errors import ChatError, MemoryNotFound


class ForeignError(Exception):
    """Stands for an error of a library as the cause of ours: its names and numbers, without its text."""


MEANINGS: Final[Mapping[type[Exception], type[ChatError]]] = {
    mem0.MemoryError: MemoryUnavailable,
    mem0.MemoryNotFoundError: MemoryNotFound,
    mem0.ValidationError: MemoryRefused,
    mem0.MemoryQuotaExceededError: MemoryRefused,
    openai.OpenAIError: MemoryUnavailable,
    # That no model has this name or that the key is wrong is put right by the operator: worth trying again.
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
"""The most derived class that an error is of counts; whatever is unknown may be over the next time."""

_WRAPPERS: Final = (mem0.LLMError, mem0.EmbeddingError, mem0.VectorStoreError)
"""Mem0's envelopes around what a service said, which is in the cause."""

_TOO_LARGE: Final = 413


def of_exception(error: Exception) -> ChatError:
    """What to raise for an error of a library; our own as they are."""
    if isinstance(error, ChatError):
        return error
    chain = list(_chain(error))
    told = chain[1] if isinstance(error, _WRAPPERS) and len(chain) > 1 else error
    failure = meaning_of(type(told))()
    if isinstance(told, openai.APIStatusError) and told.status_code == _TOO_LARGE:
        failure = MemoryRefused()
    failure.__cause__ = ForeignError(" from ".join(_name(link) for link in chain))
    return failure


def meaning_of(foreign: type[BaseException]) -> type[ChatError]:
    """What an error of this class is to us."""
    return next((MEANINGS[base] for base in foreign.__mro__ if base in MEANINGS), MemoryUnavailable)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _name(error: BaseException) -> str:
    status = f" {error.status_code}" if isinstance(error, openai.APIStatusError) else ""
    return f"{type(error).__module__}.{type(error).__qualname__}{status}"
