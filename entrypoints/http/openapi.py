"""What the OpenAPI document says beyond the types: the stream and the problems."""

from collections import defaultdict
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from application.ports import history, llm, memory
from domain import errors
from domain.errors import ChatError
from entrypoints.http.errors import STATUS
from entrypoints.http.native.schemas import ProblemView, StreamEvent

Responses = dict[int | str, dict[str, Any]]

_REQUEST_CODES: Final = {
    400: "malformed_json",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
}

BODY: Final = tuple(_REQUEST_CODES)
"""The statuses of a body that can not be used."""

STORE: Final = (history.HistoryUnavailable, errors.ServerShuttingDown, errors.InternalError)

MEMORY: Final = (memory.MemoryUnavailable, memory.MemoryRefused)

BEGIN: Final = (errors.MessageTooLong, errors.ContextTooLong, errors.TurnInProgress, errors.Cancelled, *STORE)

UPSTREAM: Final = (
    llm.LLMUnreachable,
    llm.LLMFailed,
    llm.LLMAuthFailed,
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


def problems(*kinds: type[ChatError], request: tuple[int, ...] = ()) -> Responses:
    """The responses section for an operation that may meet these."""
    codes: dict[int, set[str]] = defaultdict(set)
    for kind in kinds:
        codes[STATUS[kind]].add(kind.code)
    for status in request:
        codes[status].add(_REQUEST_CODES[status])
    return {
        status: described("Problem: " + ", ".join(f"`{code}`" for code in sorted(found)))
        for status, found in sorted(codes.items())
    }


def described(description: str) -> dict[str, Any]:
    """A response that is a problem."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    return {"description": description, "content": content}


STREAM: Final[Responses] = {
    200: {
        "description": (
            "The reply as server-sent events. Each event's `data` is a JSON object with `content` and `done`; the "
            "last one has `done: true`, and `error` where the reply failed or `finish_reason` where that is not "
            "`stop`. Then `data: [DONE]`. Events are numbered from 1 in `id`. Comment lines may come at any time."
        ),
        "content": {
            "text/event-stream": {
                "itemSchema": {
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
                }
            }
        },
        "headers": {
            "X-Turn-ID": {"description": "The turn, for stopping or rejoining it.", "schema": {"type": "string"}}
        },
    }
}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, with the shapes that only responses outside FastAPI's view have."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    _, extra = models_json_schema(
        [(ProblemView, "serialization"), (StreamEvent, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas = found["components"]["schemas"]
    schemas |= extra["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in found["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    app.openapi_schema = found
    return found
