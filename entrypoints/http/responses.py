"""What the OpenAPI document says about responses that FastAPI cannot derive: problems and streams of events.

Routes declare them, e.g. `responses=problems(TurnNotFound, *STORE)`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from application.ports import credentials, history, live_turns, llm, memory
from domain import errors
from domain.errors import ChatError
from entrypoints.http.idempotency_key import REPLAYED
from entrypoints.http.problem_examples import TURN, example_of
from entrypoints.http.request_problems import headers_too_large, malformed_request, request_timeout, uri_too_long
from entrypoints.http.statuses import STATUS

Responses = dict[int | str, dict[str, Any]]

_REQUEST_CODES: Final = {
    400: "malformed_json",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
}

BODY: Final = tuple(_REQUEST_CODES)
"""Statuses of requests with an unusable body."""

STORE: Final = (history.HistoryUnavailable,)
"""How an operation fails that reads or writes the store."""

LIVE: Final = (live_turns.LiveTurnsUnavailable,)
"""How an operation fails that follows or stops running turns."""

CREDENTIALS: Final[tuple[type[ChatError], ...]] = (
    errors.Unauthenticated,
    errors.Forbidden,
    errors.AmbiguousCredentials,
    errors.TooManyAttempts,
    credentials.IdentityProviderUnavailable,
    history.HistoryUnavailable,
)
"""Why a request may be refused because of who sends it."""

ANY: Final[tuple[type[ChatError], ...]] = (
    errors.AuthNotConfigured,
    errors.ServerShuttingDown,
    errors.InternalError,
)
"""Why any request may fail, also a public one."""

_CONNECTION: Final = (malformed_request(), request_timeout(), uri_too_long(0), headers_too_large(0, 0))
"""How the connection answers a request that never reaches its operation."""

MEMORY: Final = (memory.MemoryUnavailable, memory.MemoryRefused)
"""How an operation of long-term memory fails."""

BEGIN: Final = (
    errors.MessageTooLong,
    errors.ContextTooLong,
    errors.TurnInProgress,
    errors.IdempotencyKeyReused,
    errors.Cancelled,
    errors.Superseded,
    errors.ClientDisconnected,
    errors.WorkerLost,
    *STORE,
    *LIVE,
)
"""Why no turn begins, or a turn ends without the model's fault."""

UPSTREAM: Final = (
    llm.LLMUnreachable,
    llm.LLMFailed,
    llm.LLMAuthFailed,
    llm.LLMQuotaExceeded,
    llm.LLMContentRefused,
    llm.LLMInvalid,
    llm.LLMDisconnected,
    llm.LLMTruncated,
    llm.LLMRateLimited,
    llm.LLMTimeout,
    llm.LLMIdle,
    errors.TurnDeadline,
    errors.OutputLimit,
    history.HistoryWriteFailed,
)
"""Errors that end a turn which has begun, so that the problem has its id."""


def problems(
    *kinds: type[ChatError], request: tuple[int, ...] = (), headers: Sequence[tuple[int, str]] = ()
) -> Responses:
    """Return the `responses` of an operation that may fail with these errors.

    Includes those with which every operation that needs a credential may fail. `request` has the statuses of requests
    with an unusable body (see BODY), `headers` statuses and codes of requests with an unusable header.
    """
    return _problems((*CREDENTIALS, *kinds), request, headers)


def public_problems() -> Responses:
    """Return the `responses` of an operation that needs no credential and cannot fail by itself."""
    return _problems()


def _problems(
    kinds: Sequence[type[ChatError]] = (), request: tuple[int, ...] = (), headers: Sequence[tuple[int, str]] = ()
) -> Responses:
    codes: dict[int, set[str]] = defaultdict(set)
    for found in _CONNECTION:
        codes[found.status].add(found.code)
    for status, code in headers:
        codes[status].add(code)
    for kind in (*ANY, *kinds):
        codes[STATUS[kind]].add(kind.code)
    for status in request:
        codes[status].add(_REQUEST_CODES[status])
    return {status: _described(sorted(names), status) for status, names in sorted(codes.items())}


def _described(codes: Sequence[str], status: int) -> dict[str, Any]:
    """Return a problem response with these codes, and an example of each."""
    problem = {
        "schema": {"$ref": "#/components/schemas/ProblemView"},
        "examples": {code: {"$ref": f"#/components/examples/{example_of(code, status)}"} for code in codes},
    }
    description = "Problem: " + ", ".join(f"`{code}`" for code in codes)
    return {"description": description, "content": {"application/problem+json": problem}}


ITEM_SCHEMA: Final = "x-itemSchema"
"""What OpenAPI 3.2 calls `itemSchema`: the schema of each event. See docs/adr/0041."""

STREAM: Final[Responses] = {
    200: {
        "description": (
            "The reply as server-sent events. The `data` of each event is a JSON object with `content` and `done`. The "
            "last one has `done: true`; it also has `error` if the reply failed, or `finish_reason` if that is not "
            "`stop`. `data: [DONE]` follows. Events are numbered from 1 in `id`. Comment lines may occur at any time."
        ),
        "content": {
            "text/event-stream": {
                "example": (
                    'id: 1\ndata: {"content": "Hello! I\'m doing well", "done": false}\n\n'
                    'id: 2\ndata: {"content": ", thank you for asking.", "done": false}\n\n'
                    'id: 3\ndata: {"content": "", "done": true}\n\n'
                    "id: 4\ndata: [DONE]\n\n"
                ),
                ITEM_SCHEMA: {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                        "data": {
                            "type": "string",
                            "anyOf": [
                                {"const": "[DONE]"},
                                {
                                    "contentMediaType": "application/json",
                                    "contentSchema": {"$ref": "#/components/schemas/StreamEvent"},
                                },
                            ],
                        },
                    },
                    "required": ["data"],
                },
            }
        },
        "headers": {
            "X-Turn-ID": {
                "description": "Id of the turn, for stopping or rejoining it.",
                "schema": {"type": "string", "format": "uuid"},
                "example": TURN,
            }
        },
    }
}

_REPLAYED: Final = {
    REPLAYED: {
        "description": "`true` if an earlier request with the same `Idempotency-Key` or `turn_id` began this turn.",
        "schema": {"const": "true"},
        "example": "true",
    }
}

REPEATABLE: Final[Responses] = {200: {"headers": _REPLAYED}}
"""The response to a request that may be repeated."""

REPEATABLE_STREAM: Final[Responses] = {200: STREAM[200] | {"headers": STREAM[200]["headers"] | _REPLAYED}}
