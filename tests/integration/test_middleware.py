"""What every request passes through: its identity, its headers, its line in the log, and what never is in one."""

import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service

HELLO = {"user_id": "user123", "message": "Hello"}
ORIGIN = "https://chat.example"

EVERYWHERE = [
    ("GET", "/livez"),
    ("GET", "/api/health/detailed"),
    ("GET", "/api/chat/history/user123"),
    ("GET", "/api/chat/history/*"),
    ("POST", "/api/chat"),
    ("POST", "/api/chat/simple"),
    ("GET", "/nowhere"),
    ("PUT", "/livez"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running_service({"llm": ScriptedLLM()}) as running:
        yield running


async def ask_everywhere(service: Service, **headers: str) -> dict[str, httpx2.Response]:
    return {
        f"{method} {path}": await service.client.request(method, path, json=HELLO, headers=headers)
        for method, path in EVERYWHERE
    }


# The request's id


async def test_a_safe_request_id_is_taken_and_echoed_everywhere(service: Service) -> None:
    for given in ("7", "abc-123", "0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d", "x" * 64):
        answers = await ask_everywhere(service, **{"X-Request-ID": given})
        assert {answer.headers["X-Request-ID"] for answer in answers.values()} == {given}


async def test_any_other_request_id_is_replaced(service: Service) -> None:
    for given in ("", "a b", "a_b", "a.b", "x" * 65, "canary\tcanary", "<canary>", "canary;", "a,b"):
        answer = await service.client.get("/api/chat/history/*", headers={"X-Request-ID": given})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


async def test_requests_without_an_id_get_one_each(service: Service) -> None:
    answers = [await service.client.get("/livez") for _ in range(5)]

    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 5


# Safe headers


async def test_every_answer_has_the_safe_headers(service: Service) -> None:
    answers = await ask_everywhere(service)

    assert {answer.headers["X-Content-Type-Options"] for answer in answers.values()} == {"nosniff"}
    assert {answer.headers["Referrer-Policy"] for answer in answers.values()} == {"no-referrer"}
    assert [name for name, answer in answers.items() if "Server" in answer.headers] == []


async def test_nothing_is_kept_by_caches_and_only_a_stream_says_so_in_its_own_way(service: Service) -> None:
    answers = await ask_everywhere(service)
    kept = {name: answer.headers["Cache-Control"] for name, answer in answers.items()}

    assert kept == dict.fromkeys(kept, "no-store") | {"POST /api/chat": "no-cache, no-transform"}


# Other origins


async def test_other_origins_are_told_nothing_by_default(service: Service) -> None:
    answers = await ask_everywhere(service, Origin=ORIGIN)
    preflight = await service.client.options(
        "/api/chat", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )

    assert preflight.status_code == 405
    told = [name for answer in (*answers.values(), preflight) for name in answer.headers if "access-control" in name]
    assert told == []


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
async def test_only_chosen_origins_may_read_answers(origins: str, origin: str, allowed: str | None) -> None:
    async with running_service({"llm": ScriptedLLM()}, cors_origins=origins) as service:
        stream = await service.client.post("/api/chat", json=HELLO, headers={"Origin": origin})
        refusal = await service.client.post("/api/chat", json={}, headers={"Origin": origin})
        asked = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        preflight = await service.client.options("/api/chat/history/user123", headers=asked)

    answers = (stream, refusal, preflight)
    assert [answer.headers.get("Access-Control-Allow-Origin") for answer in answers] == [allowed] * 3
    assert preflight.status_code == (200 if allowed else 400)
    assert [name for answer in answers for name in answer.headers if "credentials" in name] == []


async def test_a_page_of_a_chosen_origin_may_read_the_ids_and_send_what_the_api_takes() -> None:
    async with running_service({"llm": ScriptedLLM()}, cors_origins=ORIGIN) as service:
        answer = await service.client.post("/api/chat", json=HELLO, headers={"Origin": ORIGIN})
        preflights = [
            await service.client.options(
                "/api/chat",
                headers={
                    "Origin": ORIGIN,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": header,
                },
            )
            for header in ("Content-Type", "Last-Event-ID", "X-Request-ID", "Authorization-Canary")
        ]

    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {"X-Turn-ID", "X-Request-ID"}
    assert [preflight.status_code for preflight in preflights] == [200, 200, 200, 400]
