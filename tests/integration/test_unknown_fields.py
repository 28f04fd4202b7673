"""Unknown fields of request bodies, on every route that has one."""

from typing import Any

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service, service_in_process

HELLO = {"user_id": "user123", "message": "Hello"}
FACT = {"fact": "I like tea."}
HEADER = "X-Ignored-Fields"


async def requests(service: Service, extra: dict[str, Any]) -> dict[str, httpx2.Response]:
    """Send a request with further fields to every route that has a body."""
    stored = (await service.client.post("/api/memories/user123", json=FACT)).json()
    return {
        "chat": await service.client.post("/api/chat", json=HELLO | extra),
        "simple": await service.client.post("/api/chat/simple", json=HELLO | extra),
        "store": await service.client.post("/api/memories/user123", json=FACT | extra),
        "correct": await service.client.patch(f"/api/memories/user123/{stored['id']}", json=FACT | extra),
        "title": await service.client.patch("/api/chat/conversations/user123/default", json={"title": "Tea"} | extra),
    }


async def test_these_are_all_routes_with_a_body() -> None:
    async with service_in_process() as service:
        paths = (await service.client.get("/openapi.json")).json()["paths"]
    found = {f"{method} {path}" for path, item in paths.items() for method in item if "requestBody" in item[method]}

    assert found == {
        "post /api/chat",
        "post /api/chat/simple",
        "post /api/memories/{user_id}",
        "patch /api/memories/{user_id}/{memory_id}",
        "patch /api/chat/conversations/{user_id}/{conversation_id}",
        "post /v1/chat/completions",  # see test_openai_wire.py
    }


@pytest.mark.server
async def test_every_route_names_unknown_fields_and_works_as_without_them() -> None:
    async with running_service({"llm": ScriptedLLM()}, cors_origins="https://chat.example") as service:
        responses = await requests(service, {"conversationId": "holidays", "model": "big", "a,b": 1})
        known = await requests(service, {})
        browser = await service.client.post("/api/chat", json=HELLO, headers={"Origin": "https://chat.example"})

    assert {response.is_success for response in responses.values()} == {True}
    assert ChatStream.of(responses["chat"].content).text == "Hello, world!"
    suggested = "conversationId;did-you-mean=conversation_id, model, a%2Cb"
    assert {name: response.headers.get(HEADER) for name, response in responses.items()} == {
        "chat": suggested,
        "simple": suggested,
        "store": "conversationId, model, a%2Cb",
        "correct": "conversationId, model, a%2Cb",
        "title": "conversationId, model, a%2Cb",
    }
    assert {response.headers.get(HEADER) for response in known.values()} == {None}
    assert HEADER in browser.headers["Access-Control-Expose-Headers"]


async def test_a_rejected_request_names_the_field_that_was_meant() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        response = await service.client.post("/api/chat", json={"userId": "user123", "message": "Hello"})

    assert response.status_code == 422
    assert response.headers[HEADER] == "userId;did-you-mean=user_id"


async def test_strict_fields_are_rejected_on_every_route(capsys: pytest.CaptureFixture[str]) -> None:
    async with service_in_process({"llm": ScriptedLLM()}, strict_fields=True) as service:
        responses = await requests(service, {"canaryId": 1, "a/b": 2})
        known = await requests(service, {})

    assert {response.status_code for response in responses.values()} == {422}
    problem = responses["chat"].json()
    assert problem["code"] == "invalid_request"
    assert problem["errors"] == [
        {"pointer": "#/canaryId", "detail": "is not a known field"},
        {"pointer": "#/a%2Fb", "detail": "is not a known field"},
    ]
    assert {response.is_success for response in known.values()} == {True}
    assert "canary" not in capsys.readouterr().err


async def test_a_strict_rejection_names_the_nearest_field() -> None:
    async with service_in_process({"llm": ScriptedLLM()}, strict_fields=True) as service:
        response = await service.client.post("/api/chat", json=HELLO | {"conversationId": "x"})

    assert response.json()["errors"] == [
        {"pointer": "#/conversationId", "detail": "is not a known field; did you mean conversation_id?"}
    ]


async def test_what_is_reported_is_bounded() -> None:
    extra = {f"{number:03}" + "é" * 200: 1 for number in range(500)}
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        lenient = await service.client.post("/api/chat/simple", json=HELLO | extra)
    async with service_in_process({"llm": ScriptedLLM()}, strict_fields=True) as service:
        strict = await service.client.post("/api/chat/simple", json=HELLO | extra)

    assert len(lenient.headers[HEADER]) < 2_100
    assert lenient.headers[HEADER].endswith(", ...")
    assert len(strict.json()["errors"]) == 20
