"""The request header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07, expired)."""

import re
from typing import Any, Final

from fastapi import Request

from domain.idempotency import KEY_PATTERN
from entrypoints.http.request_problems import invalid_idempotency_key

REPLAYED: Final = "Idempotency-Replayed"
"""Response header, `true` if an earlier request with the same key began the turn."""

_KEY: Final = re.compile(KEY_PATTERN)

_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
"""A String of RFC 9651."""

PARAMETER: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "A key of the client's for this message, e.g. a UUID; with or without quotation marks. A repeated request with "
        "the same key gets the turn of the first one: followed while it runs, replayed afterwards. Kept for 24 hours."
    ),
    "schema": {"type": "string", "pattern": r'^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$'},
    "example": '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
}


def idempotency_key(request: Request) -> str | None:
    """Return the key of a request; None if it has none. `"abc"` and `abc` are the same key.

    Raises:
        RequestProblem: the header occurs twice, or is not a key.
    """
    values = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not values:
        return None
    value: str = values[0].decode("latin-1").strip(" \t")
    if quoted := _QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    elif value.startswith('"'):
        value = ""
    if len(values) > 1 or not _KEY.fullmatch(value):
        raise invalid_idempotency_key()
    return value
