"""Why Mem0's store cannot be opened, as a sentence for the operator, and whether the reason can pass by itself.

Like `errors`, this module is imported only after `import_mem0`.
"""

import errno
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psycopg
import psycopg.conninfo
import psycopg_pool
from qdrant_client.http import exceptions as qdrant

from adapters.connection_causes import connection_cause
from adapters.error_translation import exception_chain, foreign_error
from adapters.mem0_library.errors import request_url
from adapters.mem0_proxies import (
    CAUSES_OF_A_PROXY,
    PROXY_AUTH_REQUIRED,
    credentials_refused,
    is_proxied,
    refuses_credentials,
)
from adapters.proxies import CHECK_PROXY
from application.ports.memory import MemoryNotReady
from domain.errors import Unusable

_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})
"""Statuses below 500 of a Qdrant server that is busy."""

_TRANSIENT_CLASSES: Final = frozenset({"08", "40", "53", "55", "57", "58"})
"""Of SQLSTATEs: connection, rolled-back transaction, resources, locks, operator and I/O."""

_NO_PGVECTOR: Final = frozenset({"0A000", "58P01"})
"""SQLSTATEs with which `CREATE EXTENSION vector` fails if pgvector is not installed, by version of PostgreSQL."""

_CONNECTION_MESSAGES: Final = (
    (re.compile("authentication|no password supplied|no pg_hba|role .* does not exist"), "it rejects the user", False),
    (re.compile("database .* does not exist"), "there is no such database", False),
    (re.compile("does not support SSL|certificate"), "no TLS as the URL requires it", False),
    (re.compile("Connection refused|No such file or directory"), "refused", True),
    (re.compile("resolve host|translate host name"), "dns", True),
    (re.compile("timeout|timed out", re.I), "no response in time", True),
    (re.compile("starting up|shutting down|recovery", re.I), "it is starting or shutting down", True),
    (re.compile("too many (clients|connections)|connection slots", re.I), "it has no connection left", True),
)
"""What PostgreSQL's library says about a connection, in words without addresses, and whether it can pass.

These failures have no SQLSTATE.
"""

_TRANSIENT_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN})

_TRANSIENT_SQLITE_CODES: Final = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")


def store_failure(error: Exception, section: Mapping[str, Any], setting: str) -> MemoryNotReady | Unusable | None:
    """Return the error to raise if a store could not be opened, or None if `error` is not one of a store.

    `section` is Mem0's configuration of the store, and `setting` the name of the setting from which it comes. It is
    `MemoryNotReady` if the reason can pass without a change of the configuration.
    """
    address = _address(section)
    store = f"The store of the memories{f' ({address})' if address else ''}"
    failure: MemoryNotReady | Unusable | None = None
    match error:
        case qdrant.UnexpectedResponse():
            failure = _of_a_status(error, store, setting)
        case qdrant.ResponseHandlingException():
            failure = _of_a_request(error, store, setting)
        case psycopg_pool.PoolTimeout():
            failure = _unreachable(store, "no response in time", setting)
        case psycopg.Error():
            failure = _of_postgresql(error, store, setting)
        case AssertionError() | ValueError() if address and section["provider"] == "qdrant":
            failure = _no_qdrant(store, setting)  # Qdrant's client does not expect other responses
        case _:
            failure = _of_files(error)
    if failure is not None:
        failure.__cause__ = foreign_error(error)
    return failure


def _unreachable(store: str, reason: str, setting: str) -> MemoryNotReady:
    return MemoryNotReady(f"{store} cannot be reached ({reason}); check {setting}.")


def _of_a_status(error: Any, store: str, setting: str) -> MemoryNotReady | Unusable:
    status = error.status_code
    if status == PROXY_AUTH_REQUIRED:
        return Unusable(credentials_refused(request_url(error)))
    if status in _TRANSIENT_STATUSES or status >= 500:
        return MemoryNotReady(f"{store} answers with HTTP {status}; check {setting} if this lasts.")
    if status in (401, 403):
        return Unusable(f"{store} rejected the credentials (HTTP {status}); check {setting}.")
    return Unusable(f"{store} answers with HTTP {status}; check whether {setting} names a Qdrant server.")


def _of_a_request(error: Exception, store: str, setting: str) -> MemoryNotReady | Unusable:
    cause = connection_cause(error)
    if refuses_credentials(error):
        return Unusable(credentials_refused(request_url(error)))
    if cause == "proxy" or (cause in CAUSES_OF_A_PROXY and is_proxied(request_url(error))):
        return MemoryNotReady(f"The proxy does not connect to the store of the memories; {CHECK_PROXY}.")
    if cause == "certificate":
        return _unreachable(store, cause, f"SSL_CERT_FILE or {setting}")
    if cause:
        return _unreachable(store, cause, setting)
    if any(isinstance(link, httpx.TimeoutException) for link in exception_chain(error)):
        return _unreachable(store, "no response in time", setting)
    if any(isinstance(link, httpx.HTTPError) for link in exception_chain(error)):
        return _unreachable(store, "no response", setting)
    return _no_qdrant(store, setting)


def _no_qdrant(store: str, setting: str) -> Unusable:
    return Unusable(f"{store} answers in an unknown format; check whether {setting} names a Qdrant server.")


def _of_postgresql(error: psycopg.Error, store: str, setting: str) -> MemoryNotReady | Unusable | None:
    if error.sqlstate in _NO_PGVECTOR:
        return Unusable(f"{store} lacks PostgreSQL's extension pgvector; install it, or check {setting}.")
    if error.sqlstate:
        sentence = f"{store} cannot be used (SQLSTATE {error.sqlstate}); check {setting}."
        return MemoryNotReady(sentence) if error.sqlstate[:2] in _TRANSIENT_CLASSES else Unusable(sentence)
    if not isinstance(error, psycopg.OperationalError):
        return None
    for pattern, reason, passes in _CONNECTION_MESSAGES:
        if pattern.search(str(error)):
            return (
                _unreachable(store, reason, setting)
                if passes
                else Unusable(f"{store} does not accept the connection ({reason}); check {setting}.")
            )
    return _unreachable(store, "connection failed", setting)


def _of_files(error: Exception) -> MemoryNotReady | None:
    """Explain a failure of the files of embedded Qdrant, or return None if it is not one that passes by itself."""
    reason = getattr(error, "sqlite_errorname", "")
    passes = reason.startswith(_TRANSIENT_SQLITE_CODES)
    if isinstance(error, OSError):
        reason, passes = error.strerror or "", error.errno in _TRANSIENT_ERRNOS
    if not passes:
        return None
    return MemoryNotReady(f"The files of the memories cannot be used ({reason}); check the disk of DATA_DIR.")


def _address(section: Mapping[str, Any]) -> str | None:
    """Return host and port of a server, without its credentials."""
    config = section.get("config") or {}
    try:
        if section.get("provider") == "pgvector":
            given = psycopg.conninfo.conninfo_to_dict(config.get("connection_string") or "")
            host, port = given.get("host") or config.get("host"), given.get("port") or config.get("port") or 5432
        elif config.get("url"):
            url = urlsplit(str(config["url"]))
            host, port = url.hostname, url.port
        else:
            host, port = config.get("host"), config.get("port")
    except (psycopg.Error, ValueError):
        return None
    if not host:
        return None
    host = f"[{host}]" if ":" in str(host) and not str(host).startswith("[") else host
    return f"{host}:{port}" if port else str(host)
