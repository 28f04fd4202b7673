"""Problems of requests that are rejected before they reach a use case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from domain.errors import UnknownCursor
from entrypoints.http.problems import problem


@dataclass(eq=False)
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
    """What the log says instead of `errors` or `detail`, if these quote the request."""

    def response(self, request_id: str) -> Response:
        log = self.log
        if log is None:
            reasons = [f"{error['pointer']}: {error['detail']}" for error in self.errors]
            log = {"errors": reasons} if reasons else {"detail": self.detail}
        response = problem(
            request_id,
            self.status,
            self.code,
            self.title,
            self.detail,
            retryable=self.retryable,
            errors=self.errors,
            log=log,
        )
        response.headers.update(self.headers)
        return response


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


def invalid_requests(
    status: int, errors: Sequence[dict[str, str]], log: Mapping[str, Any] | None = None
) -> RequestProblem:
    """Reject several fields. `log` is what the log says instead, if the `errors` quote the request."""
    detail = "; ".join(f"{error['pointer']}: {error['detail']}" for error in errors)
    return RequestProblem(status, UnknownCursor.code, UnknownCursor.title, detail, errors, log=log)


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
    return RequestProblem(
        413, "body_too_large", "Request body too large", f"The body of the request exceeds the limit of {limit} bytes."
    )


def too_many_values(limit: int) -> RequestProblem:
    return RequestProblem(
        413, "body_too_large", "Request body too large", f"The body of the request has more than {limit} JSON values."
    )
