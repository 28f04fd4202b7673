"""Errors in the format of OpenAI's API."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.datastructures import MutableHeaders

from domain.errors import ContextTooLong, Failure, Unauthenticated
from entrypoints.http.request_problems import RequestProblem
from entrypoints.http.statuses import status_of_code

SHOULD_RETRY: Final = "X-Should-Retry"
"""Response header that OpenAI's libraries obey: with `false` they do not repeat the request."""

MAX_WAIT: Final = 60
"""Seconds of `Retry-After` up to which a library may repeat a request by itself."""

_CODES: Final = {Unauthenticated.code: "invalid_api_key", ContextTooLong.code: "context_length_exceeded"}
"""Codes that clients know by another name."""

_STATUSES: Final = {"invalid_request": 400, ContextTooLong.code: 400}
"""Statuses that differ from those of the native API: libraries expect these codes with 400."""

_PARAMETERS: Final = {ContextTooLong.code: "messages"}

_MESSAGES: Final = {"not_found": "Of OpenAI's API there are only POST /v1/chat/completions and GET /v1/models here."}
"""Messages that say more than those of the native API: many libraries ask for other endpoints, e.g. /v1/responses."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_error(problem: Mapping[str, Any], headers: MutableHeaders) -> tuple[int, bytes]:
    """Return the status and the body for a problem; see `ErrorFormat`.

    `X-Should-Retry` keeps libraries from repeating what cannot succeed.
    """
    status = client_status(problem["code"], problem["status"])
    if status == 409 or (status >= 500 and not problem["retryable"]) or int(headers.get("Retry-After", "0")) > MAX_WAIT:
        headers[SHOULD_RETRY] = "false"
    fields = problem.get("errors", ())
    message = _MESSAGES.get(problem["code"], problem["detail"])
    if problem["code"] == "invalid_request":
        message = "; ".join(map(_message, fields))
    return status, _body(
        status, problem["code"], message, _parameter(fields[0]) if fields else _PARAMETERS.get(problem["code"])
    )


def stream_error(failure: Failure) -> bytes:
    """Return the body of an error within a stream."""
    status = client_status(failure.code, status_of_code(failure.code))
    return _body(status, failure.code, failure.detail, failure.parameter or _PARAMETERS.get(failure.code))


def model_not_found(models: str) -> RequestProblem:
    detail = f"There is no such model here. Available: {models}."
    return RequestProblem(400, "model_not_found", "Unknown model", detail, [{"pointer": "#/model", "detail": detail}])


def client_status(code: str, status: int) -> int:
    """Return the status of an error of this code as clients of OpenAI's API know it."""
    return _STATUSES.get(code, status)


def client_code(code: str) -> str:
    """Return a code as clients of OpenAI's API know it."""
    return _CODES.get(code, code)


def _body(status: int, code: str, message: str, parameter: str | None) -> bytes:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": parameter, "code": client_code(code)}
    return orjson.dumps({"error": error})


def _message(field: Mapping[str, str]) -> str:
    return ": ".join(filter(None, (_parameter(field), field["detail"])))


def _parameter(field: Mapping[str, str]) -> str | None:
    """Return the name of a field as OpenAI writes it, e.g. `messages[0].content` for `#/messages/0/content`.

    None stands for the whole body.
    """
    path = re.sub(r"^#/?(header/|query/|path/)?", "", field["pointer"])
    return re.sub(r"/(\d+)(?=/|$)", r"[\1]", path).replace("/", ".") or None
