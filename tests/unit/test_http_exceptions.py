"""HTTPExceptions become problem responses with the status and headers they were raised with."""

import httpx2
import pytest
from fastapi import FastAPI, HTTPException

from entrypoints.http.errors import add_error_handlers
from entrypoints.http.middleware import RequestContext

NOT_FOUND = "There is nothing at this path. The service's own API is under /api, and OpenAI's under /v1."


async def response_to(error: HTTPException) -> httpx2.Response:
    app = FastAPI()
    add_error_handlers(app)
    app.add_middleware(RequestContext)

    @app.get("/")
    async def fail() -> None:
        raise error

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        return await client.get("/")


@pytest.mark.parametrize(
    ("error", "status", "code", "title", "detail"),
    [
        (HTTPException(400, "Twice."), 400, "http_error", "Bad request", "Twice."),
        (HTTPException(401), 401, "unauthenticated", "Unauthorized", "Unauthorized."),
        (HTTPException(403, "Not you."), 403, "forbidden", "Forbidden", "Not you."),
        (HTTPException(404), 404, "not_found", "Not found", NOT_FOUND),
        (HTTPException(404, "No such file."), 404, "not_found", "Not found", "No such file."),
        (HTTPException(418), 418, "http_error", "I'm a teapot", "I'm a Teapot."),
        (HTTPException(429), 429, "http_error", "Too many requests", "Too Many Requests."),
    ],
)
async def test_the_problem_has_the_status_and_detail_of_the_exception(
    error: HTTPException, status: int, code: str, title: str, detail: str
) -> None:
    response = await response_to(error)
    body = response.json()

    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status_code, body["status"]) == (status, status)
    assert (body["code"], body["title"], body["detail"]) == (code, title, detail)


async def test_the_response_has_the_headers_of_the_exception() -> None:
    response = await response_to(HTTPException(401, headers={"WWW-Authenticate": "Bearer"}))

    assert response.headers["WWW-Authenticate"] == "Bearer"
