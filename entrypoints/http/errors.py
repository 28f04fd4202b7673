"""Turns every exception that a route raises into a problem response."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response

from domain.conversation import TurnId
from domain.errors import ChatError, Failure, UnknownCursor
from entrypoints.http.problems import problem
from entrypoints.http.request_problems import RequestProblem, invalid_request, invalid_requests
from entrypoints.http.statuses import status_of_code


class RefusedTurn(Exception):
    """A turn whose failure is the whole response; `history` is the path at which its text may be read."""

    def __init__(
        self,
        failure: Failure,
        turn_id: TurnId | None,
        history: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.failure = failure
        self.turn_id = turn_id
        self.history = history
        self.headers = headers or {}


class ClientGone(Exception):
    """The client disconnected before a response was sent."""


def chat_problem(
    request_id: str, error: ChatError | Failure, turn_id: TurnId | None = None, history: str | None = None
) -> Response:
    """Build the response for an error of a use case, or for the failure of a turn."""
    fields = [{"pointer": f"#/{error.parameter}", "detail": error.detail}] if error.parameter else []
    return problem(
        request_id,
        status_of_code(error.code),
        error.code,
        error.title,
        error.detail,
        retryable=error.retryable,
        retry_after=error.retry_after,
        turn_id=turn_id,
        history=history,
        errors=fields,
    )


def add_error_handlers(app: FastAPI) -> None:
    """Turn every exception raised by a route into a problem response."""
    app.add_exception_handler(ChatError, _on_chat_error)
    app.add_exception_handler(RefusedTurn, _on_refused_turn)
    app.add_exception_handler(RequestProblem, _on_request_problem)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)


async def _on_chat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    if isinstance(error, UnknownCursor):
        return invalid_request(422, "#/query/cursor", error.detail).response(_request_id(request))
    return chat_problem(_request_id(request), error)


async def _on_refused_turn(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, RefusedTurn)
    history = refused.history and request.scope["state"]["root_path"] + refused.history
    response = chat_problem(_request_id(request), refused.failure, refused.turn_id, history)
    response.headers.update(refused.headers)
    return response


async def _on_request_problem(request: Request, found: Exception) -> Response:
    assert isinstance(found, RequestProblem)
    return found.response(_request_id(request))


async def _on_validation_error(request: Request, invalid: Exception) -> Response:
    assert isinstance(invalid, RequestValidationError)
    fields = [{"pointer": _pointer(error["loc"]), "detail": _detail(error["msg"])} for error in invalid.errors()]
    kinds = [f"{_pointer(error['loc'])}: {_kind(error)}" for error in invalid.errors()]
    return invalid_requests(422, fields, log={"errors": kinds}).response(_request_id(request))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer with the status, detail and headers that the exception was raised with."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = _HTTP_CODES.get(status, "http_error")
    detail = _HTTP_DETAILS.get(status) if error.detail == status.phrase else error.detail
    response = problem(_request_id(request), status, code, status.phrase.capitalize(), detail or f"{status.phrase}.")
    response.headers.update(error.headers or {})
    if status == 405:
        response.headers["Allow"] = _allowed_methods(request, error)
    return response


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # never received by the client, but logged


_HTTP_CODES: Final[dict[int, str]] = {
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}

_HTTP_DETAILS: Final[dict[int, str]] = {
    404: "There is nothing at this path. The service's own API is under /api, and OpenAI's under /v1.",
    405: "This path does not accept the method of the request, but those in the Allow header.",
}
"""Details for exceptions of the framework, which have none of their own."""


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


def _pointer(location: Sequence[Any]) -> str:
    """Convert a location of pydantic's into a pointer, e.g. `("query", "limit")` into `#/query/limit`."""
    part, *path = location
    prefix = "" if part == "body" else f"/{part}"
    return f"#{prefix}" + "".join(f"/{key}" for key in path)


def _detail(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _kind(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a field, for the log: pydantic's name for it, or our own sentence."""
    return _detail(error["msg"]) if error["type"] == "value_error" else str(error["type"])


def _allowed_methods(request: Request, error: HTTPException) -> str:
    """Return all methods of the path. The framework's own header lists those of a single route."""
    path = getattr(request.scope.get("route"), "path", None)
    routes = [route for route in iter_route_contexts(request.app.routes) if route.path == path]
    methods = {method for route in routes for method in route.methods or ()}
    return ", ".join(sorted(methods)) or (error.headers or {}).get("Allow", "")
