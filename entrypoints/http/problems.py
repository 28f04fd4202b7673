"""Problem details (RFC 9457): the response to every failed request."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from domain.conversation import TurnId

_CLOSING: Final = frozenset(
    {
        "server_shutting_down",
        "body_too_large",
        "malformed_request",
        "request_timeout",
        "uri_too_long",
        "headers_too_large",
    }
)
"""Codes after which the connection is closed."""


class FieldProblem(BaseModel):
    """An invalid field of a request."""

    pointer: str = Field(
        description="Where it is: in the body, e.g. `#/message`, or `#/query/…`, `#/path/…`, `#/header/…`.",
        examples=["#/message"],
    )
    detail: str = Field(description="What is wrong with it.", examples=["must not be blank"])


class ProblemView(BaseModel):
    """A problem as described by RFC 9457."""

    type: str = Field(
        description="A URN that ends with the code.", examples=["urn:problem-type:smart-chatbot:turn_in_progress"]
    )
    title: str = Field(
        description="What the code means, in words.", examples=["Another turn of this conversation is in progress"]
    )
    status: int = Field(description="The HTTP status, again.", examples=[409])
    detail: str = Field(
        description="What happened this time, for people. Never quotes the request.",
        examples=["Another turn of this conversation is in progress."],
    )
    code: str = Field(description="Stable, machine-readable identifier of the problem.", examples=["turn_in_progress"])
    retryable: bool = Field(
        description="Whether the same request may succeed later: after `Retry-After` seconds.", examples=[True]
    )
    request_id: str = Field(
        description="Id of the request, as in `X-Request-ID` and in the log.",
        examples=["6f1d3c2a9b8e47050000000000000001"],
    )
    turn_id: str | None = Field(
        None,
        description="Present once the turn has begun.",
        examples=["0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"],
        json_schema_extra={"format": "uuid"},
    )
    history: str | None = Field(
        None,
        description="For `stream_expired`: URL of the turn's text.",
        examples=["/api/chat/history/user123?conversation_id=default"],
    )
    errors: list[FieldProblem] | None = Field(None, description="For `invalid_request`: each invalid field.")


ErrorFormat = Callable[[Mapping[str, Any], MutableHeaders], tuple[int, bytes]]
"""Returns the status and the JSON body that tell of a problem in another format, and may change the headers."""


class ProblemResponse(Response):
    """A response that leaves `log`, the fields that tell why the request failed, for the log line of the request.

    For paths with a format of their own, see `ErrorsUnderPrefix`, it is sent in that format.
    """

    media_type = "application/problem+json"

    def __init__(self, body: Mapping[str, Any], headers: Mapping[str, str], log: Mapping[str, Any]) -> None:
        super().__init__(orjson.dumps(body), body["status"], headers)
        self._problem = body
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["problem"] = self._log
        error_format: ErrorFormat | None = scope["state"].get("error_format")
        if error_format is not None:
            self.status_code, self.body = error_format(self._problem, self.headers)
            self.headers["Content-Type"] = "application/json"
            self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


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
    log: Mapping[str, Any] | None = None,
) -> Response:
    """Build the response for a problem, and add its code and `log` to the log line of the request.

    `retry_after` is in seconds; retryable problems default to one second. `log` must not contain anything of the
    request.
    """
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
    if code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    if code in _CLOSING:
        headers["Connection"] = "close"
    return ProblemResponse(body, headers, {"reason": code, **(log or {})})
