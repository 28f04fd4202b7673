"""Middleware: request ids, security headers, CORS."""

import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

HELLO = {"user_id": "user123", "message": "Hello"}
ORIGIN = "https://chat.example"

EVERYWHERE = [
    ("GET", "/livez"),
    ("GET", "/api/health/detailed"),
    ("GET", "/api/chat/history/user123"),
    ("GET", "/api/chat/history/*"),
    ("POST", "/api/chat"),
    ("POST", "/api/chat/simple"),
    ("GET", "/no-such-path"),
    ("PUT", "/livez"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running_service({"llm": ScriptedLLM()}) as running:
        yield running


async def request_everywhere(service: Service, **headers: str) -> dict[str, httpx2.Response]:
    return {
        f"{method} {path}": await service.client.request(method, path, json=HELLO, headers=headers)
        for method, path in EVERYWHERE
    }


# Request ids


async def test_a_valid_request_id_is_echoed_by_every_route(service: Service) -> None:
    for request_id in ("7", "abc-123", "0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d", "x" * 64):
        responses = await request_everywhere(service, **{"X-Request-ID": request_id})
        assert {response.headers["X-Request-ID"] for response in responses.values()} == {request_id}


async def test_an_invalid_request_id_is_replaced(service: Service) -> None:
    for request_id in ("", "a b", "a_b", "a.b", "x" * 65, "canary\tcanary", "<canary>", "canary;", "a,b"):
        response = await service.client.get("/api/chat/history/*", headers={"X-Request-ID": request_id})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-ID"])
        assert response.json()["request_id"] == response.headers["X-Request-ID"]


async def test_requests_without_an_id_get_unique_ids(service: Service) -> None:
    responses = [await service.client.get("/livez") for _ in range(5)]

    assert len({response.headers["X-Request-ID"] for response in responses}) == 5


# Security headers


async def test_every_response_has_security_headers(service: Service) -> None:
    responses = await request_everywhere(service)

    assert {response.headers["X-Content-Type-Options"] for response in responses.values()} == {"nosniff"}
    assert {response.headers["Referrer-Policy"] for response in responses.values()} == {"no-referrer"}
    assert [name for name, response in responses.items() if "Server" in response.headers] == []


async def test_responses_are_not_cached(service: Service) -> None:
    responses = await request_everywhere(service)
    cached = {name: response.headers["Cache-Control"] for name, response in responses.items()}

    assert cached == dict.fromkeys(cached, "no-store") | {"POST /api/chat": "no-cache, no-transform"}


# CORS


async def test_cors_is_disabled_by_default(service: Service) -> None:
    responses = await request_everywhere(service, Origin=ORIGIN)
    preflight = await service.client.options(
        "/api/chat", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )

    assert preflight.status_code == 405
    cors_headers = [
        name for response in (*responses.values(), preflight) for name in response.headers if "access-control" in name
    ]
    assert cors_headers == []


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (ORIGIN, ORIGIN, ORIGIN),
        (f"http://localhost:3000,{ORIGIN}", ORIGIN, ORIGIN),
        (ORIGIN, "https://evil.example", None),
        (ORIGIN, "http://chat.example", None),
        (ORIGIN, f"{ORIGIN}.evil.example", None),
        (ORIGIN, f"{ORIGIN}:444", None),
        (ORIGIN, "null", None),
        ("*", "https://any.example", "*"),
    ],
)
async def test_only_configured_origins_may_read_responses(origins: str, origin: str, allowed: str | None) -> None:
    async with running_service({"llm": ScriptedLLM()}, cors_origins=origins) as service:
        stream = await service.client.post("/api/chat", json=HELLO, headers={"Origin": origin})
        rejected = await service.client.post("/api/chat", json={}, headers={"Origin": origin})
        requested = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        preflight = await service.client.options("/api/chat/history/user123", headers=requested)

    responses = (stream, rejected, preflight)
    assert [response.headers.get("Access-Control-Allow-Origin") for response in responses] == [allowed] * 3
    assert preflight.status_code == (200 if allowed else 400)
    assert [name for response in responses for name in response.headers if "credentials" in name] == []


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("authorization", 200),
        ("cache-control", 200),
        ("content-type", 200),
        ("idempotency-key", 200),
        ("last-event-id", 200),
        ("x-api-key", 200),
        ("x-request-id", 200),
        ("x-requested-with", 200),
        ("authorization,content-type,idempotency-key", 200),
        ("x-canary", 400),
    ],
)
async def test_a_preflight_allows_the_headers_of_the_api(header: str, status: int) -> None:
    async with running_service({"llm": ScriptedLLM()}, cors_origins=ORIGIN) as service:
        requested = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": header}
        preflight = await service.client.options("/api/chat", headers={"Origin": ORIGIN} | requested)

    assert preflight.status_code == status


async def test_a_page_of_another_origin_may_read_the_headers_of_the_api() -> None:
    async with running_service({"llm": ScriptedLLM()}, cors_origins=ORIGIN) as service:
        response = await service.client.post("/api/chat", json=HELLO, headers={"Origin": ORIGIN})

    exposed = {name.strip() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed == {
        "Idempotency-Replayed",
        "RateLimit",
        "RateLimit-Policy",
        "Retry-After",
        "WWW-Authenticate",
        "X-Ignored-Fields",
        "X-Request-ID",
        "X-Turn-ID",
    }


class BuggyUseCase:
    async def __call__(self, *_: object) -> None:
        raise KeyError


async def test_a_browser_may_read_every_problem() -> None:
    overrides = {"llm": ScriptedLLM(), "get_history": BuggyUseCase()}
    async with running_service(overrides, cors_origins=ORIGIN, max_body_bytes=1_000) as service:
        origin = {"Origin": ORIGIN}
        responses = {
            500: await service.client.get("/api/chat/history/user123", headers=origin),
            404: await service.client.get("/no-such-path", headers=origin),
            405: await service.client.put("/livez", headers=origin),
            413: await service.client.post("/api/chat", json=HELLO | {"x": "x" * 1_000}, headers=origin),
            415: await service.client.post("/api/chat", content=b"{}", headers=origin),
            422: await service.client.post("/api/chat", json={}, headers=origin),
        }
        await service.container.turn_runner().drain(0)
        responses[503] = await service.client.post("/api/chat", json=HELLO, headers=origin)

    assert {status: response.status_code for status, response in responses.items()} == {n: n for n in responses}
    assert {response.headers["Content-Type"] for response in responses.values()} == {"application/problem+json"}
    readable = {status: response.headers.get("Access-Control-Allow-Origin") for status, response in responses.items()}
    assert readable == dict.fromkeys(responses, ORIGIN)


async def test_a_problem_for_another_origin_is_not_readable() -> None:
    async with running_service({"get_history": BuggyUseCase()}, cors_origins=ORIGIN) as service:
        headers = {"Origin": "https://evil.example"}
        response = await service.client.get("/api/chat/history/user123", headers=headers)

    assert response.status_code == 500
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["X-Request-ID"] == response.json()["request_id"]
