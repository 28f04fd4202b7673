"""Maps every error to a problem response: the table of statuses, and FastAPI's exception handlers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response

from application.ports import credentials, history, live_turns, llm, memory
from domain import errors
from domain.conversation import TurnId
from domain.errors import ChatError, Failure, UnknownCursor
from entrypoints.http.problems import problem

STATUS: Final[dict[type[ChatError], int]] = {
    errors.MessageTooLong: 413,
    errors.ContextTooLong: 413,
    errors.TurnNotFound: 404,
    errors.ConversationNotFound: 404,
    errors.MemoryNotFound: 404,
    errors.TurnInProgress: 409,
    errors.IdempotencyKeyReused: 422,
    errors.StreamExpired: 410,
    UnknownCursor: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.AuthNotConfigured: 403,
    errors.AmbiguousCredentials: 400,
    errors.TooManyAttempts: 429,
    errors.TurnDeadline: 504,
    errors.OutputLimit: 502,
    errors.WorkerLost: 500,
    errors.InternalError: 500,
    errors.Cancelled: 409,
    errors.ClientDisconnected: 409,
    errors.Superseded: 409,
    errors.ServerShuttingDown: 503,
    llm.LLMUnreachable: 502,
    llm.LLMNotConnectable: 502,
    llm.LLMTimeout: 504,
    llm.LLMIdle: 504,
    llm.LLMRateLimited: 503,
    llm.LLMQuotaExceeded: 502,
    llm.LLMAuthFailed: 502,
    llm.LLMFailed: 502,
    llm.LLMRefused: 502,
    llm.LLMRedirected: 502,
    llm.LLMParameterRefused: 400,
    llm.LLMContentRefused: 422,
    llm.LLMInvalid: 502,
    llm.LLMWrongAPI: 502,
    llm.LLMDisconnected: 502,
    llm.LLMTruncated: 502,
    llm.LLMContextTooLong: 413,
    live_turns.LiveTurnsUnavailable: 503,
    credentials.IdentityProviderUnavailable: 503,
    history.HistoryUnavailable: 503,
    history.HistoryLost: 503,
    history.HistoryWriteFailed: 503,
    memory.MemoryUnavailable: 503,
    memory.MemoryNotReady: 503,
    memory.MemoryMisconfigured: 503,
    memory.FactsNotExtracted: 503,
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
    """A request that is rejected before it reaches a use case."""

    status: int
    code: str
    title: str
    detail: str
    errors: Sequence[dict[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    retryable: bool = False
    log: Mapping[str, Any] | None = None
    """What the log tells instead of `detail` and `errors`, if these quote the request."""


def malformed_request(detail: str = "The request is not valid HTTP/1.1.") -> RequestProblem:
    return RequestProblem(400, "malformed_request", "Malformed request", detail)


def request_timeout() -> RequestProblem:
    detail = "The request did not arrive in time."
    return RequestProblem(408, "request_timeout", "Request timeout", detail, retryable=True)


def headers_too_large(limit: int, count: int) -> RequestProblem:
    detail = f"The limits are {limit} bytes for the request line and the headers, and {count} headers."
    return RequestProblem(431, "headers_too_large", "Request head too large", detail)


def uri_too_long(limit: int) -> RequestProblem:
    return RequestProblem(414, "uri_too_long", "URL too long", f"The limit is {limit} bytes for the request line.")


def malformed_json(detail: str) -> RequestProblem:
    return RequestProblem(400, "malformed_json", "Malformed JSON", detail)


def invalid_request(status: int, pointer: str, detail: str) -> RequestProblem:
    """Reject a single field. `pointer` locates it, e.g. `#/message` in the body or `#/query/limit`."""
    return invalid_requests(status, [{"pointer": pointer, "detail": detail}])


def invalid_requests(status: int, errors: Sequence[dict[str, str]]) -> RequestProblem:
    detail = "; ".join(f"{error['pointer']}: {error['detail']}" for error in errors)
    return RequestProblem(status, "invalid_request", UnknownCursor.title, detail, errors)


def unsupported_media_type() -> RequestProblem:
    return RequestProblem(415, "unsupported_media_type", "Unsupported media type", "Send application/json.")


def unsupported_content_coding() -> RequestProblem:
    detail = "Send the body uncompressed, without Content-Encoding."
    return RequestProblem(
        415, "unsupported_media_type", "Unsupported media type", detail, headers={"Accept-Encoding": "identity"}
    )


def invalid_idempotency_key() -> RequestProblem:
    detail = "Idempotency-Key must be 1 to 255 visible ASCII characters, and may be in quotation marks."
    return RequestProblem(400, "invalid_idempotency_key", "Invalid idempotency key", detail)


def body_too_large(limit: int) -> RequestProblem:
    return RequestProblem(413, "body_too_large", "Request body too large", f"The limit is {limit} bytes.")


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
    """Build the response for an error of a chat."""
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


def request_problem(request_id: str, found: RequestProblem, log: Mapping[str, Any] | None = None) -> Response:
    """Build the response for a rejected request. `log` is by default what the client is told."""
    if log is None:
        reasons = [f"{error['pointer']}: {error['detail']}" for error in found.errors]
        log = {"errors": reasons} if reasons else {"detail": found.detail}
    response = problem(
        request_id,
        found.status,
        found.code,
        found.title,
        found.detail,
        retryable=found.retryable,
        errors=found.errors,
        log=log,
    )
    response.headers.update(found.headers)
    return response


def internal_error(request_id: str) -> Response:
    return chat_problem(request_id, errors.InternalError())


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
        return await _on_request_problem(request, invalid_request(422, "#/query/cursor", error.detail))
    return chat_problem(_request_id(request), error)


async def _on_refused_turn(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, RefusedTurn)
    history = refused.history and request.scope["state"]["root_path"] + refused.history
    response = chat_problem(_request_id(request), refused.failure, refused.turn_id, history)
    response.headers.update(refused.headers)
    return response


async def _on_request_problem(request: Request, found: Exception) -> Response:
    assert isinstance(found, RequestProblem)
    return request_problem(_request_id(request), found, found.log)


async def _on_validation_error(request: Request, invalid: Exception) -> Response:
    assert isinstance(invalid, RequestValidationError)
    fields = [{"pointer": _pointer(error["loc"]), "detail": _detail(error["msg"])} for error in invalid.errors()]
    kinds = [f"{_pointer(error['loc'])}: {_kind(error)}" for error in invalid.errors()]
    return request_problem(_request_id(request), invalid_requests(422, fields), {"errors": kinds})


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

_HTTP_DETAILS: Final[dict[int, str]] = {404: "See /docs.", 405: "See the Allow header."}
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
