"""Fields of a request body that its model does not have: reported in a header, or rejected."""

import difflib
from collections.abc import Collection, Iterable, Set
from typing import Any, Final
from urllib.parse import quote

from starlette.types import Scope

from entrypoints.http.request_problems import RequestProblem, invalid_requests

HEADER: Final = "X-Ignored-Fields"

MAX_FIELDS: Final = 20
MAX_NAME_CHARS: Final = 64
MAX_HEADER_CHARS: Final = 2_000
"""Bounds of what is reported. A percent-encoded character has up to twelve."""

MORE: Final = "..."
"""Last entry of a header, or end of a name, that was cut at one of the bounds."""

_MIN_SIMILARITY: Final = 0.7


def check_fields(scope: Scope, body: Any, known: Set[str] | None, *, strict: bool) -> None:
    """Note the unknown fields of `body` for the response's header. Does nothing if `known` is None.

    Bodies have no objects within objects, so these are all.

    Raises:
        RequestProblem: There are any, and `strict` is set.
    """
    if known is None or not isinstance(body, dict) or body.keys() <= known:
        return
    unknown = [name for name in body if name not in known]
    if strict:
        raise _rejection(unknown, known)
    scope["state"]["ignored_fields"] = header_of(unknown, known)


def header_of(unknown: Iterable[str], known: Collection[str]) -> str:
    """Return the value of the header.

    >>> header_of(["conversationId", "größe"], ["conversation_id", "message"])
    'conversationId;did-you-mean=conversation_id, gr%C3%B6%C3%9Fe'
    """
    entries: list[str] = []
    size = 0
    for name in unknown:
        entry = _encoded(name[:MAX_NAME_CHARS]) + (MORE if len(name) > MAX_NAME_CHARS else "")
        near = nearest(name, known)
        entry += f";did-you-mean={near}" if near else ""
        size += len(entry) + 2
        if len(entries) == MAX_FIELDS or size > MAX_HEADER_CHARS:
            return ", ".join([*entries, MORE])
        entries.append(entry)
    return ", ".join(entries)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known field that `name` resembles most, whatever its style.

    >>> nearest("conversationID", ["conversation_id", "message"])
    'conversation_id'
    """
    if len(name) > MAX_NAME_CHARS:
        return None
    plain = {field.replace("_", ""): field for field in known}
    spelling = name.replace("_", "").replace("-", "").lower()
    found = difflib.get_close_matches(spelling, plain, n=1, cutoff=_MIN_SIMILARITY)
    return plain[found[0]] if found else None


def _encoded(name: str) -> str:
    return quote(name.encode("utf-8", "replace"), safe="")


def _rejection(unknown: list[str], known: Collection[str]) -> RequestProblem:
    errors = []
    for name in unknown[:MAX_FIELDS]:
        near = nearest(name, known)
        detail = "is not a known field" + (f"; did you mean {near}?" if near else "")
        errors.append({"pointer": f"#/{_encoded(name[:MAX_NAME_CHARS])}", "detail": detail})
    return invalid_requests(422, errors, log={"errors": [f"#: {len(unknown)} unknown fields"]})
