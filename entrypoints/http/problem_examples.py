"""An example of every problem for the OpenAPI document, built like the problem itself."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from domain.conversation import TurnId
from domain.errors import ChatError, StreamExpired
from entrypoints.http import errors
from entrypoints.http.errors import STATUS, RequestProblem, chat_problem, request_problem

REQUEST_ID: Final = "6f1d3c2a9b8e47050000000000000001"
TURN: Final = TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d")

_REQUEST_PROBLEMS: Final[Sequence[RequestProblem]] = (
    errors.malformed_request(),
    errors.request_timeout(),
    errors.uri_too_long(32_768),
    errors.headers_too_large(32_768, 100),
    errors.malformed_json("The body is not valid JSON: unexpected end of data."),
    errors.body_too_large(128_000),
    errors.unsupported_media_type(),
    errors.invalid_request(422, "#/message", "must not be blank"),
    errors.invalid_request(400, "#/header/Last-Event-ID", "must be an event number, or 0"),
    errors.invalid_idempotency_key(),
)
"""Problems of requests that do not reach a use case."""


def example_of(code: str, status: int) -> str:
    """Return the name of an example: the code, but for the one code that has two statuses."""
    return "invalid_header" if (code, status) == ("invalid_request", 400) else code


def problem_examples(codes_in_turns: Sequence[str]) -> dict[str, Any]:
    """Return the examples by name. `codes_in_turns` are the codes of errors that end a turn, and so have its id."""
    found: dict[str, Mapping[str, Any]] = {}
    for kind in STATUS:
        found.setdefault(kind.code, _body(_of_chat(kind, codes_in_turns)))
    for problem in _REQUEST_PROBLEMS:
        found[example_of(problem.code, problem.status)] = _body(request_problem(REQUEST_ID, problem))
    return {name: {"summary": body["title"], "value": body} for name, body in sorted(found.items())}


def _of_chat(kind: type[ChatError], codes_in_turns: Sequence[str]) -> Response:
    if kind is StreamExpired:
        return chat_problem(REQUEST_ID, kind(), TURN, "/api/chat/history/user123?conversation_id=default")
    return chat_problem(REQUEST_ID, kind(), TURN if kind.code in codes_in_turns else None)


def _body(response: Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body
