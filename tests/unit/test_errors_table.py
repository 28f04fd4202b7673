"""The table of error statuses: complete, and as documented."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator

import pytest

import adapters
import application
import domain
import entrypoints
from domain.errors import ChatError
from entrypoints.http.statuses import STATUS, status_of_code

DOCUMENTED = {
    "unsupported_parameter": 400,
    "ambiguous_credentials": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "auth_not_configured": 403,
    "turn_not_found": 404,
    "conversation_not_found": 404,
    "memory_not_found": 404,
    "turn_in_progress": 409,
    "cancelled": 409,
    "client_disconnected": 409,
    "superseded": 409,
    "stream_expired": 410,
    "message_too_long": 413,
    "context_too_long": 413,
    "invalid_request": 422,
    "content_refused": 422,
    "idempotency_key_reused": 422,
    "too_many_attempts": 429,
    "internal_error": 500,
    "worker_lost": 500,
    "memory_disabled": 501,
    "memory_refused": 502,
    "upstream_unreachable": 502,
    "upstream_error": 502,
    "upstream_quota": 502,
    "upstream_auth": 502,
    "upstream_invalid": 502,
    "upstream_disconnected": 502,
    "upstream_truncated": 502,
    "output_limit": 502,
    "upstream_rate_limited": 503,
    "live_turns_unavailable": 503,
    "history_unavailable": 503,
    "identity_provider_unavailable": 503,
    "history_write_failed": 503,
    "memory_unavailable": 503,
    "server_shutting_down": 503,
    "upstream_timeout": 504,
    "upstream_idle": 504,
    "turn_deadline": 504,
}

RUN_WHEN_IMPORTED = {"entrypoints.asgi", "entrypoints.cli.__main__", "entrypoints.local_model"}

SHARED = {
    "upstream_unreachable": 2,
    "upstream_error": 3,
    "upstream_invalid": 2,
    "context_too_long": 2,
    "memory_unavailable": 5,
    "history_unavailable": 2,
}
"""Number of errors that share a code because clients need not tell them apart."""


def subclasses(kind: type[ChatError]) -> Iterator[type[ChatError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def errors() -> set[type[ChatError]]:
    """Return every concrete error of the product, i.e. with a code."""
    for layer in (domain, application, adapters, entrypoints):
        for module in pkgutil.walk_packages(layer.__path__, f"{layer.__name__}."):
            if module.name not in RUN_WHEN_IMPORTED and "migrations" not in module.name:
                importlib.import_module(module.name)
    layers = {layer.__name__ for layer in (domain, application, adapters, entrypoints)}
    return {kind for kind in subclasses(ChatError) if kind.__module__.split(".")[0] in layers and hasattr(kind, "code")}


def test_exactly_the_concrete_errors_have_a_status() -> None:
    assert errors() == set(STATUS)


@pytest.mark.parametrize(("code", "status"), DOCUMENTED.items())
def test_a_documented_code_has_its_documented_status(code: str, status: int) -> None:
    assert {status} == {found for kind, found in STATUS.items() if kind.code == code}


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_errors_that_share_a_code_share_a_status(kind: type[ChatError]) -> None:
    assert STATUS[kind] == status_of_code(kind.code)


def test_an_unknown_code_is_an_internal_error() -> None:
    assert status_of_code("from_a_newer_version") == 500


def test_every_code_is_documented() -> None:
    assert set(DOCUMENTED) == {kind.code for kind in errors()}


def test_only_the_expected_errors_share_a_code() -> None:
    assert {code: count for code, count in Counter(kind.code for kind in errors()).items() if count > 1} == SHARED


OWN_DETAIL = {"unauthenticated", "auth_not_configured"}
"""Errors that tell the client what to do, always in the same words."""


def test_the_default_detail_of_an_error_is_its_title() -> None:
    kinds = [kind for kind in errors() if kind.code not in OWN_DETAIL]
    assert [kind for kind in kinds if not kind.title or kind().detail != f"{kind.title}."] == []
