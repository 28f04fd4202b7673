"""Every problem the API answers with: one table of codes, one shape (RFC 9457)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from application.ports import history, live_turns, llm, memory
from domain import errors
from domain.conversation import TurnId
from domain.errors import ChatError, Failure

STATUS: Final[dict[type[ChatError], int]] = {
    errors.MessageTooLong: 413,
    errors.ContextTooLong: 413,
    errors.TurnNotFound: 404,
    errors.MemoryNotFound: 404,
    errors.TurnInProgress: 409,
    errors.StreamExpired: 410,
    errors.UnknownCursor: 422,
    errors.TurnDeadline: 504,
    errors.OutputLimit: 502,
    errors.WorkerLost: 500,
    errors.InternalError: 500,
    errors.Cancelled: 409,
    errors.ClientDisconnected: 409,
    errors.ServerShuttingDown: 503,
    llm.LLMUnreachable: 502,
    llm.LLMTimeout: 504,
    llm.LLMIdle: 504,
    llm.LLMRateLimited: 503,
    llm.LLMAuthFailed: 502,
    llm.LLMFailed: 502,
    llm.LLMRefused: 502,
    llm.LLMRedirected: 502,
    llm.LLMInvalid: 502,
    llm.LLMDisconnected: 502,
    llm.LLMTruncated: 502,
    llm.LLMContextTooLong: 413,
    live_turns.LiveTurnsUnavailable: 503,
    history.HistoryUnavailable: 503,
    history.HistoryWriteFailed: 503,
    memory.MemoryUnavailable: 503,
    memory.MemoryLeaked: 503,
    memory.MemoryRefused: 502,
    memory.MemoryDisabled: 501,
}
"""The HTTP status of every error. No other module maps errors to statuses."""

_STATUS_OF_CODE: Final = {kind.code: status for kind, status in STATUS.items()}


def status_of_code(code: str) -> int:
    """Return the HTTP status of an error code, e.g. of a turn that was ended by another process.

    A code that this version does not know is answered as 500.
    """
    return _STATUS_OF_CODE.get(code, 500)


@dataclass
class RequestProblem(Exception):
    """A request that never became a use case's business."""

    status: int
    code: str
    title: str
    detail: str
    errors: Sequence[dict[str, str]] = ()


def malformed_json(detail: str) -> RequestProblem:
    return RequestProblem(400, "malformed_json", "The body is not JSON", detail)


def invalid_request(status: int, pointer: str, detail: str) -> RequestProblem:
    return invalid_requests(status, [{"pointer": pointer, "detail": detail}])


def invalid_requests(status: int, found: Sequence[dict[str, str]]) -> RequestProblem:
    detail = "; ".join(f"{one['pointer']}: {one['detail']}" for one in found)
    return RequestProblem(status, "invalid_request", errors.UnknownCursor.title, detail, found)


def unsupported_media_type() -> RequestProblem:
    return RequestProblem(415, "unsupported_media_type", "The body's type is not supported", "Send application/json.")


def body_too_large(limit: int) -> RequestProblem:
    return RequestProblem(413, "body_too_large", "The body is too large", f"The limit is {limit} bytes.")


class RefusedTurn(Exception):
    """A turn whose failure is the whole response; `history` is the path at which its text may be read."""

    def __init__(self, failure: Failure, turn_id: TurnId, history: str | None = None) -> None:
        self.failure = failure
        self.turn_id = turn_id
        self.history = history


class ClientGone(Exception):
    """Whoever asked has left; nobody will read the answer."""


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
    """The answer that tells of one problem."""
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


def chat_problem(
    request_id: str, error: ChatError | Failure, turn_id: TurnId | None = None, history: str | None = None
) -> Response:
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
    )


def request_id_of(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


async def _on_chat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    if isinstance(error, errors.UnknownCursor):
        return await _on_request_problem(request, invalid_request(422, "#/query/cursor", error.detail))
    return chat_problem(request_id_of(request), error)


async def _on_refused_turn(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, RefusedTurn)
    return chat_problem(request_id_of(request), refusal.failure, refusal.turn_id, refusal.history)


async def _on_request_problem(request: Request, found: Exception) -> Response:
    assert isinstance(found, RequestProblem)
    return problem(request_id_of(request), found.status, found.code, found.title, found.detail, errors=found.errors)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [{"pointer": _pointer(one["loc"]), "detail": _detail(one["msg"])} for one in error.errors()]
    return await _on_request_problem(request, invalid_requests(422, found))


def _pointer(location: Sequence[Any]) -> str:
    where, *path = location
    prefix = "" if where == "body" else f"/{where}"
    return f"#{prefix}" + "".join(f"/{part}" for part in path)


def _detail(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        answer = problem(
            request_id_of(request), 405, "method_not_allowed", "The method is not allowed", "See the Allow header."
        )
        answer.headers["Allow"] = _methods(request, error)
    else:
        answer = problem(request_id_of(request), 404, "not_found", "There is nothing here", "See /docs.")
    return answer


def _methods(request: Request, error: HTTPException) -> str:
    """The methods of a path; the framework's own header names those of one of its routes only."""
    route = request.scope.get("route")
    operations = request.app.openapi()["paths"].get(route.path) if route else None
    return ", ".join(sorted(map(str.upper, operations))) if operations else (error.headers or {}).get("Allow", "")


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


def add_error_handlers(app: FastAPI) -> None:
    """Have everything that can be raised below a route answered as a problem."""
    app.add_exception_handler(ChatError, _on_chat_error)
    app.add_exception_handler(RefusedTurn, _on_refused_turn)
    app.add_exception_handler(RequestProblem, _on_request_problem)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)


def internal_error(request_id: str) -> Response:
    return chat_problem(request_id, errors.InternalError())
