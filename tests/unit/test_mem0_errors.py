"""The table of what Mem0 and the libraries below it raise: complete, and saying what it should."""

import json
import sqlite3
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
from application.ports.memory import LongTermMemoryError, MemoryRefused, MemoryUnavailable
from domain.errors import MemoryNotFound

with TemporaryDirectory() as directory:
    import_mem0(Path(directory))  # before anything imports Mem0 as it comes
    from mem0 import exceptions as mem0

    from adapters.mem0_library.errors import ERROR_MAP, mapped_type, translate

REQUEST = httpx2.Request("POST", "http://127.0.0.1/")


NO_ERRORS = {"Warning", "Rollback"}
"""What databases' drivers call exceptions and never let out."""


def exceptions_of(module: object) -> Iterator[type[Exception]]:
    for name in dir(module):
        value = getattr(module, name)
        if not isinstance(value, type) or name in NO_ERRORS:
            continue
        if issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


def explained_by(foreign: type[Exception]) -> type[BaseException]:
    """The class in the table that speaks for an error."""
    return next(base for base in foreign.__mro__ if base in ERROR_MAP)


SHOWN = {
    error
    for module in (mem0, openai, httpx, httpx2, psycopg, psycopg_pool, qdrant, sqlite3)
    for error in exceptions_of(module)
}


@pytest.mark.parametrize(
    "foreign", sorted(SHOWN, key=str), ids=lambda error: f"{error.__module__}.{error.__qualname__}"
)
def test_every_error_that_a_library_shows_is_in_the_table(foreign: type[Exception]) -> None:
    assert explained_by(foreign) is not Exception
    assert issubclass(mapped_type(foreign), LongTermMemoryError | MemoryNotFound)


@pytest.mark.parametrize("foreign", list(exceptions_of(mem0)), ids=lambda error: error.__qualname__)
def test_every_error_of_mem0_is_told_without_its_text(foreign: Callable[..., Exception]) -> None:
    told = translate(foreign("secret", error_code="X"))

    assert "secret" not in f"{told} {told.__cause__}"


def status(code: int) -> openai.APIStatusError:
    kinds = {400: openai.BadRequestError, 401: openai.AuthenticationError, 422: openai.UnprocessableEntityError}
    kind = kinds.get(code, openai.APIStatusError)
    return kind("secret", response=httpx2.Response(code, request=REQUEST), body=None)


def wrapped(inner: Exception) -> Exception:
    """As Mem0 raises what the model's service said."""
    error: Exception = mem0.LLMError("secret")
    error.__cause__ = inner
    return error


@pytest.mark.parametrize(
    ("foreign", "meaning"),
    [
        (mem0.LLMError("secret"), MemoryUnavailable),
        (mem0.ValidationError("secret", "X"), MemoryRefused),
        (mem0.MemoryNotFoundError("secret", "X"), MemoryNotFound),
        (wrapped(status(400)), MemoryRefused),
        (wrapped(status(401)), MemoryUnavailable),
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
def test_an_error_means_what_it_should(foreign: Exception, meaning: type[Exception]) -> None:
    told = translate(foreign)

    assert type(told) is meaning
    assert isinstance(told.__cause__, ForeignError)
    assert "secret" not in f"{told} {told.__cause__}"


def test_our_own_errors_are_told_as_they_are() -> None:
    ours = MemoryNotFound()

    assert translate(ours) is ours
