"""Why Mem0's store cannot be opened, and whether the reason can pass by itself."""

import errno
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
import psycopg_pool
import pytest
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from adapters.error_translation import ForeignError
from adapters.mem0_import import import_mem0
from application.ports.memory import MemoryNotReady
from domain.errors import Unusable

with TemporaryDirectory() as directory:
    import_mem0(Path(directory))  # before anything imports Mem0 with its defaults

    from adapters.mem0_library.store_failures import store_failure

POSTGRESQL = {"provider": "pgvector", "config": {"connection_string": "postgresql://u:secret@db.test/x"}}
QDRANT = {"provider": "qdrant", "config": {"url": "http://qdrant.test:6333", "api_key": "secret"}}
EMBEDDED = {"provider": "qdrant", "config": {"path": "/data/qdrant"}}
OTHER = {"provider": "chroma", "config": {"path": "/data"}}

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")


def answered(status: int) -> UnexpectedResponse:
    return UnexpectedResponse(status, "secret", b"secret", httpx.Headers())


def failed(source: Exception) -> ApiException:
    """A request of Qdrant's client that failed, as the client raises it."""
    error = ResponseHandlingException(source)
    error.__context__ = source
    return error


def request_error(kind: type[httpx.RequestError], text: str = "secret") -> ApiException:
    return failed(kind(text, request=httpx.Request("GET", "http://qdrant.test:6333/collections")))


def connection(text: str) -> psycopg.OperationalError:
    return psycopg.OperationalError(f'connection to server at "db.test", port 5432 failed: {text}')


PASSING: list[tuple[Exception, Mapping[str, Any], str]] = [
    (
        request_error(httpx.ConnectTimeout),
        QDRANT,
        "(qdrant.test:6333) cannot be reached (connect timeout); check STORE.",
    ),
    (
        request_error(httpx.ReadTimeout),
        QDRANT,
        "(qdrant.test:6333) cannot be reached (no response in time); check STORE.",
    ),
    (request_error(httpx.RemoteProtocolError), QDRANT, "cannot be reached (connection broken); check STORE."),
    (failed(ConnectionRefusedError(111, "secret")), QDRANT, "cannot be reached (refused); check STORE."),
    (answered(503), QDRANT, "answers with HTTP 503; check STORE if this lasts."),
    (connection("Connection refused"), POSTGRESQL, "(db.test:5432) cannot be reached (refused); check STORE."),
    (connection("FATAL: the database system is starting up"), POSTGRESQL, "(it is starting or shutting down)"),
    (connection("FATAL: sorry, too many clients already"), POSTGRESQL, "(it has no connection left)"),
    (psycopg.errors.ConnectionTimeout("connection timeout expired"), POSTGRESQL, "(no response in time); check STORE."),
    (psycopg.OperationalError("failed to resolve host 'secret'"), POSTGRESQL, "(dns); check STORE."),
    (connection("secret"), POSTGRESQL, "cannot be reached (connection failed); check STORE."),
    (psycopg_pool.PoolTimeout("secret"), POSTGRESQL, "cannot be reached (no response in time); check STORE."),
    (psycopg.errors.DiskFull("secret"), POSTGRESQL, "cannot be used (SQLSTATE 53100); check STORE."),
    (OSError(errno.ENOSPC, "No space left", "secret"), EMBEDDED, "(No space left); check the disk of DATA_DIR."),
]


@pytest.mark.parametrize(("error", "section", "words"), PASSING)
def test_a_reason_that_can_pass_is_waited_for(error: Exception, section: Mapping[str, Any], words: str) -> None:
    failure = store_failure(error, section, "STORE")

    assert isinstance(failure, MemoryNotReady)
    assert words in str(failure)
    assert isinstance(failure.__cause__, ForeignError)
    assert "secret" not in f"{failure} {failure.__cause__}"


LASTING: list[tuple[Exception, Mapping[str, Any], str]] = [
    (answered(401), QDRANT, "(qdrant.test:6333) rejected the credentials (HTTP 401); check STORE."),
    (answered(404), QDRANT, "answers with HTTP 404; check whether STORE names a Qdrant server."),
    (answered(407), QDRANT, "refused our credentials (HTTP 407); check HTTP_PROXY"),
    (failed(ValueError("secret")), QDRANT, "in an unknown format; check whether STORE names a Qdrant server."),
    (AssertionError("secret"), QDRANT, "in an unknown format; check whether STORE names a Qdrant server."),
    (
        connection('FATAL: password authentication failed for user "u"'),
        POSTGRESQL,
        "(it rejects the user); check STORE.",
    ),
    (connection('FATAL: database "secret" does not exist'), POSTGRESQL, "(there is no such database); check STORE."),
    (psycopg.errors.FeatureNotSupported("secret"), POSTGRESQL, "lacks PostgreSQL's extension pgvector"),
    (psycopg.errors.InsufficientPrivilege("secret"), POSTGRESQL, "(SQLSTATE 42501); check STORE."),
]


@pytest.mark.parametrize(("error", "section", "words"), LASTING)
def test_a_reason_that_does_not_pass_ends_the_start(error: Exception, section: Mapping[str, Any], words: str) -> None:
    failure = store_failure(error, section, "STORE")

    assert isinstance(failure, Unusable)
    assert words in str(failure)
    assert "secret" not in f"{failure} {failure.__cause__}"


@pytest.mark.parametrize(
    ("error", "section"),
    [
        (ValueError("secret"), EMBEDDED),
        (ValueError("secret"), OTHER),
        (sqlite3.DatabaseError("malformed"), EMBEDDED),
        (PermissionError(errno.EACCES, "denied", "secret"), EMBEDDED),
    ],
)
def test_other_errors_are_left_to_the_caller(error: Exception, section: Mapping[str, Any]) -> None:
    assert store_failure(error, section, "STORE") is None


def test_a_database_of_embedded_files_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    holder, other = (sqlite3.connect(tmp_path / "storage.sqlite", timeout=0) for _ in range(2))
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError) as raised:
        other.execute("BEGIN EXCLUSIVE")
    holder.close()
    other.close()

    assert "(SQLITE_BUSY); check the disk of DATA_DIR." in str(store_failure(raised.value, EMBEDDED, "STORE"))


def test_the_proxy_of_a_qdrant_server_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    failure = store_failure(request_error(httpx.ConnectTimeout), QDRANT, "STORE")

    assert str(failure) == (
        "The proxy does not connect to the store of the memories; "
        "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
    )
