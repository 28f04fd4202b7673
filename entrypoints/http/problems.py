"""Problem details (RFC 9457): the response to every failed request."""

import math
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from domain.conversation import TurnId


class FieldProblem(BaseModel):
    pointer: str = Field(examples=["#/message"])
    detail: str


class ProblemView(BaseModel):
    """A problem as described by RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable, machine-readable identifier of the problem.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str
    turn_id: str | None = Field(None, description="Present once the turn has begun.")
    history: str | None = Field(None, description="For `stream_expired`: URL of the turn's text.")
    errors: list[FieldProblem] | None = Field(None, description="For `invalid_request`: each invalid field.")


def problem(
    request_id: str,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    retryable: bool = False,
    retry_after: float | None = None,
    turn_id: TurnId | None = None,
    history: str | None = None,
    errors: Sequence[dict[str, str]] = (),
) -> Response:
    """Build the response for a problem. `retry_after` is in seconds; retryable problems default to one second."""
    body: dict[str, Any] = {
        "type": f"urn:problem-type:smart-chatbot:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
        "request_id": request_id,
    }
    headers: dict[str, str] = {}
    if turn_id:
        body["turn_id"] = turn_id
        headers["X-Turn-ID"] = turn_id
    if history:
        body["history"] = history
    if errors:
        body["errors"] = errors
    if retryable:
        headers["Retry-After"] = str(math.ceil(retry_after or 1))
    if code in ("server_shutting_down", "body_too_large"):
        headers["Connection"] = "close"
    return Response(orjson.dumps(body), status, headers, "application/problem+json")
