"""An example of every problem for the OpenAPI document, built like the problem itself."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from domain.conversation import TurnId
from domain.errors import ChatError, StreamExpired
from entrypoints.http import request_problems
from entrypoints.http.errors import chat_problem
from entrypoints.http.request_problems import RequestProblem
from entrypoints.http.statuses import STATUS

REQUEST_ID: Final = "6f1d3c2a9b8e47050000000000000001"
TURN: Final = TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d")

_REQUEST_PROBLEMS: Final[Sequence[RequestProblem]] = (
    request_problems.malformed_request(),
    request_problems.request_timeout(),
    request_problems.uri_too_long(32_768),
    request_problems.headers_too_large(32_768, 100),
    request_problems.malformed_json("The body is not valid JSON: unexpected end of data."),
    request_problems.body_too_large(128_000),
    request_problems.unsupported_media_type(),
    request_problems.invalid_request(422, "#/message", "must not be blank"),
    request_problems.invalid_request(400, "#/header/Last-Event-ID", "must be an event number, or 0"),
    request_problems.invalid_idempotency_key(),
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
        found[example_of(problem.code, problem.status)] = _body(problem.response(REQUEST_ID))
    return {name: {"summary": body["title"], "value": body} for name, body in sorted(found.items())}


def _of_chat(kind: type[ChatError], codes_in_turns: Sequence[str]) -> Response:
    if kind is StreamExpired:
        return chat_problem(REQUEST_ID, kind(), TURN, "/api/chat/history/user123?conversation_id=default")
    return chat_problem(REQUEST_ID, kind(), TURN if kind.code in codes_in_turns else None)


def _body(response: Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body
