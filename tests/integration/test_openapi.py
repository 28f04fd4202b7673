"""The OpenAPI document: matches the snapshot and the behaviour of the service."""

import copy
import importlib
import json
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi.routing import APIRoute

import entrypoints.http.native
import entrypoints.http.openai
import entrypoints.http.operations
from application.ports.history import HistoryUnavailable
from application.ports.llm import LLMRateLimited, LLMTimeout, LLMUnreachable
from domain.conversation import ID_PATTERN
from entrypoints.http.app import create_app
from entrypoints.settings import Settings
from tests.harness.credentials import authentication
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.script import FailingHistory
from tests.harness.servers import running_service

SNAPSHOT = Path(__file__).parents[1] / "openapi.json"

HELLO = {"user_id": "user123", "message": "Hello"}

REQUESTS: list[tuple[str, str, str, Any]] = [
    ("POST", "/api/chat", "/api/chat", HELLO),
    ("POST", "/api/chat", "/api/chat", {}),
    ("POST", "/api/chat", "/api/chat", "not an object"),
    ("POST", "/api/chat", "/api/chat", None),
    ("POST", "/api/chat", "/api/chat", HELLO | {"message": "x" * 40_000}),
    ("POST", "/api/chat/simple", "/api/chat/simple", HELLO),
    ("POST", "/api/chat/simple", "/api/chat/simple", {}),
    ("POST", "/api/chat/simple", "/api/chat/simple", None),
    ("GET", "/api/chat/history/{user_id}", "/api/chat/history/user123", None),
    ("GET", "/api/chat/history/{user_id}", "/api/chat/history/*", None),
    ("GET", "/api/chat/history/{user_id}", "/api/chat/history/user123?limit=0", None),
    ("GET", "/api/chat/history/{user_id}", "/api/chat/history/user123?cursor=x", None),
    ("DELETE", "/api/chat/history/{user_id}", "/api/chat/history/user123", None),
    ("DELETE", "/api/chat/history/{user_id}", "/api/chat/history/*", None),
    ("GET", "/api/chat/conversations/{user_id}", "/api/chat/conversations/user123", None),
    ("GET", "/api/chat/conversations/{user_id}", "/api/chat/conversations/*", None),
    (
        "PATCH",
        "/api/chat/conversations/{user_id}/{conversation_id}",
        "/api/chat/conversations/user123/default",
        {"title": "Trees"},
    ),
    (
        "PATCH",
        "/api/chat/conversations/{user_id}/{conversation_id}",
        "/api/chat/conversations/user123/none",
        {"title": "Trees"},
    ),
    ("PATCH", "/api/chat/conversations/{user_id}/{conversation_id}", "/api/chat/conversations/user123/default", {}),
    ("POST", "/api/chat/simple", "/api/chat/simple", HELLO | {"turn_id": "x"}),
    ("GET", "/api/chat/turns/{turn_id}", "/api/chat/turns/x", None),
    ("POST", "/api/chat/turns/{turn_id}/stop", "/api/chat/turns/x/stop", None),
    ("GET", "/api/chat/turns/{turn_id}/stream", "/api/chat/turns/x/stream", None),
    ("GET", "/api/chat/turns/{turn_id}/stream", "/api/chat/turns/x/stream?after=x", None),
    ("POST", "/api/memories/{user_id}", "/api/memories/user123", {"fact": "likes tea"}),
    ("POST", "/api/memories/{user_id}", "/api/memories/user123", {}),
    ("POST", "/api/memories/{user_id}", "/api/memories/user123", None),
    ("GET", "/api/memories/{user_id}", "/api/memories/user123", None),
    ("GET", "/api/memories/{user_id}", "/api/memories/user123?cursor=x", None),
    ("GET", "/api/memories/{user_id}/search", "/api/memories/user123/search?q=tea", None),
    ("GET", "/api/memories/{user_id}/search", "/api/memories/user123/search", None),
    ("PATCH", "/api/memories/{user_id}/{memory_id}", "/api/memories/user123/x", {"importance": 1}),
    ("PATCH", "/api/memories/{user_id}/{memory_id}", "/api/memories/user123/x", {}),
    ("DELETE", "/api/memories/{user_id}/{memory_id}", "/api/memories/user123/x", None),
    ("DELETE", "/api/memories/{user_id}", "/api/memories/user123", None),
    ("DELETE", "/api/memories/{user_id}", "/api/memories/*", None),
    ("POST", "/v1/chat/completions", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    ("POST", "/v1/chat/completions", "/v1/chat/completions", {}),
    ("POST", "/v1/chat/completions", "/v1/chat/completions", None),
    ("GET", "/v1/models", "/v1/models", None),
    ("GET", "/livez", "/livez", None),
    ("GET", "/readyz", "/readyz", None),
    ("GET", "/api/health", "/api/health", None),
    ("GET", "/api/health/detailed", "/api/health/detailed", None),
]
"""Requests that cover every operation: method, path template, requested path, body."""


@cache
def document() -> dict[str, Any]:
    return document_with("none")


def document_with(auth_mode: str) -> dict[str, Any]:
    chosen = Settings(
        _env_file=None,
        history_backend="in_memory",
        memory_backend="in_memory",
        app_name="Smart Chatbot",
        **authentication(auth_mode),
    )
    found: dict[str, Any] = create_app(chosen).openapi()
    return found


def serialized(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def routes() -> Iterator[tuple[str, str]]:
    """Yield method and path of every route, except HEAD, which is not documented."""
    for package in (entrypoints.http.native, entrypoints.http.openai, entrypoints.http.operations):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            router = getattr(importlib.import_module(module.name), "router", None)
            for route in router.routes if router else ():
                assert isinstance(route, APIRoute)
                yield from ((method, route.path) for method in route.methods or () if method != "HEAD")


def documented() -> dict[tuple[str, str], dict[str, Any]]:
    paths = document()["paths"]
    return {(method.upper(), path): operation for path, item in paths.items() for method, operation in item.items()}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize(("schema", "field"), [("ChatRequest", "message"), ("FactRequest", "fact")])
def test_a_text_is_blank_by_the_document_if_it_is_blank_for_the_service(schema: str, field: str) -> None:
    validator = jsonschema_rs.validator_for(document()["components"]["schemas"][schema]["properties"][field])
    characters = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    assert [one for one in characters if validator.is_valid(one) == one.isspace()] == []


def test_the_document_matches_the_snapshot() -> None:
    assert serialized(document()) == SNAPSHOT.read_text(encoding="utf-8"), (
        "The OpenAPI document has changed. If this is intended, run: python -m tests.integration.test_openapi"
    )


@pytest.mark.parametrize(
    ("mode", "schemes"),
    [("api_key", ["bearer", "api_key"]), ("jwt", ["bearer"]), ("api_key+jwt", ["bearer", "api_key"])],
)
def test_with_authentication_the_document_differs_only_in_what_is_said_about_it(mode: str, schemes: list[str]) -> None:
    found = copy.deepcopy(document_with(mode))
    security = {path: operation.pop("security") for path, item in found["paths"].items() for operation in item.values()}
    required = found["components"]["schemas"]["ChatRequest"]["required"]
    assert required == (["user_id", "message"] if mode == "api_key" else ["message"])
    required[:] = ["user_id", "message"]

    assert list(found["components"].pop("securitySchemes")) == schemes
    assert found == document()
    assert {path for path, needed in security.items() if not needed} == {"/livez", "/readyz", "/api/health"}
    assert [needed for needed in security.values() if needed and needed != [{name: []} for name in schemes]] == []


def test_exactly_the_existing_routes_are_documented() -> None:
    assert set(documented()) == set(routes())


def test_ids_have_a_pattern() -> None:
    operation = documented()[("GET", "/api/chat/history/{user_id}")]
    [user_id] = [one for one in operation["parameters"] if one["name"] == "user_id"]

    assert user_id["schema"]["pattern"] == f"^{ID_PATTERN}$"


def test_every_error_response_is_documented_as_a_problem_or_in_the_format_of_openai() -> None:
    kinds = {
        (path.startswith("/v1/"), kind, content["schema"]["$ref"].rpartition("/")[2])
        for (_, path), operation in documented().items()
        for status, response in operation["responses"].items()
        if status[0] in "45" and (operation["summary"], status) != ("Readiness check", "503")
        for kind, content in response.get("content", {}).items()
    }

    assert kinds == {
        (False, "application/problem+json", "ProblemView"),
        (True, "application/json", "OpenAIErrorView"),
    }


@pytest.mark.server
async def test_every_observed_status_is_documented() -> None:
    undocumented = []
    async with running_service({"llm": ScriptedLLM()}) as service:
        for method, template, path, body in REQUESTS:
            response = await service.client.request(method, path, json=body)
            if str(response.status_code) not in documented()[(method, template)]["responses"]:
                undocumented.append((method, template, response.status_code))

    assert undocumented == []


@pytest.mark.server
@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/simple"])
async def test_the_statuses_and_headers_of_requests_with_a_key_are_documented(path: str) -> None:
    operation = documented()[("POST", path)]
    async with running_service({"llm": ScriptedLLM()}) as service:
        responses = [
            await service.client.post(path, json=HELLO | {"message": message}, headers={"Idempotency-Key": key})
            for message, key in (("Hello", "k"), ("Hello", "k"), ("Else", "k"), ("Hello", "not a key"))
        ]

    assert [200, 200, 422, 400] == [response.status_code for response in responses]
    assert "Idempotency-Replayed" in responses[1].headers
    assert "Idempotency-Replayed" in operation["responses"]["200"]["headers"]
    for response in responses[2:]:
        assert f"`{response.json()['code']}`" in operation["responses"][str(response.status_code)]["description"]


@pytest.mark.server
@pytest.mark.parametrize("error", [LLMUnreachable(), LLMRateLimited(), LLMTimeout()])
async def test_the_status_of_a_failed_reply_is_documented(error: Any) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(refusal=error))}) as service:
        responses = {path: await service.client.post(path, json=HELLO) for path in ("/api/chat", "/api/chat/simple")}

    for path, response in responses.items():
        assert str(response.status_code) in documented()[("POST", path)]["responses"]


@pytest.mark.server
async def test_the_status_of_an_unavailable_history_is_documented() -> None:
    history = FailingHistory({"begin": [HistoryUnavailable()]})
    async with running_service({"llm": ScriptedLLM(), "history": history}) as service:
        response = await service.client.post("/api/chat", json=HELLO)

    assert (response.status_code, response.json()["code"]) == (503, "history_unavailable")
    assert "503" in documented()[("POST", "/api/chat")]["responses"]


if __name__ == "__main__":
    SNAPSHOT.write_text(serialized(document()), encoding="utf-8")
