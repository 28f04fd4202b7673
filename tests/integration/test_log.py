"""The log: one line of JSON per record, without secrets, messages or replies."""

import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.fakes import ScriptedLLM
from tests.harness.scripted_upstream import TEXTS, ScriptedUpstream
from tests.harness.servers import running_service, service_process

pytestmark = pytest.mark.server

HELLO = {"user_id": "user123", "message": "Hello"}
BANNER = ("Smart Chatbot listens on ", "  ", "warning: MEM0_API_KEY: ignored unless ")
HOSTILE: Sequence[str] = ("a%0d%0aINJECTED", "%0a{%22INJECTED%22:1}", "%e2%80%a8INJECTED", "%1b[31mINJECTED", "%00")
CANARIES = [f"canary{number:02}" for number in range(12)]


def records(output: str) -> list[dict[str, Any]]:
    """Parse the log; fails if a line is not JSON."""
    return [json.loads(line) for line in output.splitlines() if line and not line.startswith(BANNER)]


async def test_hostile_requests_cannot_inject_log_records(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}, debug=True) as service:
        for text in HOSTILE:
            for path in ("/api/chat/history/", "/api/chat/turns/", "/"):
                await service.client.get(f"{path}{text}")
        for header in (b"a\tINJECTED", b"\xe2\x80\xa8INJECTED", b"{INJECTED}"):
            await service.client.get("/livez", headers=[(b"X-Request-ID", header), (b"User-Agent", header)])
        for user in ("a\r\nINJECTED", "user123"):
            await service.client.post("/api/chat", json={"user_id": user, "message": 'x\r\n{"INJECTED": 1}'})
    output = capsys.readouterr().err

    assert [record for record in records(output) if not {"event", "level", "timestamp"} <= record.keys()] == []
    assert [record["status"] for record in records(output) if record["event"] == "request"][-2:] == [422, 200]
    assert "INJECTED" not in output
    assert output.isascii()


async def test_every_line_of_a_request_has_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        for path in ("/api/chat", "/api/chat/simple"):
            await service.client.post(path, json=HELLO, headers={"X-Request-ID": "mine-1"})
    logged = [record for record in records(capsys.readouterr().err) if "request_id" in record]
    lines = [(record["event"], record["request_id"]) for record in logged]

    assert lines == [("turn completed", "mine-1"), ("request", "mine-1")] * 2


async def test_a_request_is_logged_once_with_the_template_of_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.client.get("/api/chat/history/user123")
        await service.client.get("/no-such-path/canary?canary=1")
        await service.client.get("/api/chat/histroy/canary")
    output = capsys.readouterr().err
    requests = [record for record in records(output) if record["event"] == "request"]

    logged = [(record["method"], record["path"], record["status"], record["level"]) for record in requests]
    assert logged == [
        ("GET", "/api/chat/history/{user_id}", 200, "info"),
        ("GET", "/no-such-path/*", 404, "info"),
        ("GET", "/api/chat/*/*", 404, "info"),
    ]
    assert "canary" not in output


JSON = {"Content-Type": "application/json"}

REJECTED: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "too large": (
        {"json": HELLO | {"message": "canary" * 1_000}},
        {
            "status": 413,
            "reason": "body_too_large",
            "detail": "The body of the request exceeds the limit of 2000 bytes.",
        },
    ),
    "no JSON": (
        {"content": '{"canary', "headers": JSON},
        {"status": 400, "reason": "malformed_json"},
    ),
    "another content type": (
        {"content": "canary", "headers": {"Content-Type": "text/canary"}},
        {"status": 415, "reason": "unsupported_media_type", "detail": "Send application/json."},
    ),
    "invalid fields": (
        {"json": {"user_id": "*canary", "on_disconnect": "canary", "memory": "canary", "canary": 1}},
        {
            "status": 422,
            "reason": "invalid_request",
            "errors": [
                "#/user_id: must be 1 to 128 characters, start with an ASCII letter or digit, "
                "and contain only letters, digits and . _ : @ | + = ~ -",
                "#/message: missing",
                "#/on_disconnect: literal_error",
                "#/memory: bool_type",
            ],
        },
    ),
    "no object": (
        {"json": ["canary"]},
        {"status": 422, "reason": "invalid_request", "errors": ["#: model_attributes_type"]},
    ),
    "too long a message": ({"json": HELLO | {"message": "canary" * 20}}, {"status": 413, "reason": "message_too_long"}),
}


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/simple"])
@pytest.mark.parametrize(("request_body", "logged"), REJECTED.values(), ids=REJECTED)
async def test_the_line_of_a_rejected_request_tells_the_reason_without_quoting_it(
    path: str, request_body: dict[str, Any], logged: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_service({"llm": ScriptedLLM()}, max_body_bytes=2_000, max_message_chars=100) as service:
        response = await service.client.post(path, **request_body)
    output = capsys.readouterr().err
    lines = [line for line in records(output) if line["event"] == "request"]

    assert [(path, "info")] == [(line["path"], line["level"]) for line in lines]
    assert {**lines[0], **logged} == lines[0]
    assert logged["reason"] == response.json()["code"]
    assert "canary" not in output


async def test_a_message_that_the_application_rejects_has_one_line_besides_that_of_its_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running_service({"llm": ScriptedLLM()}, max_message_chars=100) as service:
        await service.client.post("/api/chat", json=HELLO | {"message": "x" * 101})
        await service.client.post("/api/chat", json=HELLO | {"user_id": "*"})
    lines = [(line["event"], line["reason"]) for line in records(capsys.readouterr().err) if "reason" in line]

    assert lines == [
        ("turn rejected", "message_too_long"),
        ("request", "message_too_long"),
        ("request", "invalid_request"),
    ]


async def test_requests_without_a_route_have_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.client.post("/api/canary", json=HELLO)
        await service.client.get("/api/chat")
        await service.client.get("/api/health/detailed")
    output = capsys.readouterr().err
    requests = [record for record in records(output) if record["event"] == "request"]

    assert [record.get("reason") for record in requests] == ["not_found", "method_not_allowed", None]
    assert "canary" not in output


@pytest.mark.parametrize(("debug", "logged"), [(False, []), (True, ["/livez", "/readyz", "/api/health"])])
async def test_probes_are_logged_at_debug_level_only(
    capsys: pytest.CaptureFixture[str], debug: bool, logged: list[str]
) -> None:
    async with running_service({"llm": ScriptedLLM()}, debug=debug) as service:
        await service.client.get("/livez")
        await service.client.get("/readyz")
        await service.client.get("/api/health")
    requests = [record for record in records(capsys.readouterr().err) if record["event"] == "request"]

    assert [record["path"] for record in requests] == logged


async def test_the_log_for_people_keeps_to_one_line_per_record(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}, log_format="console") as service:
        for text in HOSTILE:
            await service.client.get(f"/{text}")
        await service.client.get("/no-such-path")
    lines = [line for line in capsys.readouterr().err.splitlines() if " request " in line]

    assert [line for line in lines if "INJECTED" in line or not line.isprintable()] == []
    assert len(lines) == len(HOSTILE) + 1
    assert "path=/no-such-path" in lines[-1]
    assert "reason=not_found" in lines[-1]


async def test_a_level_leaves_out_the_levels_below(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}, log_level="warning") as service:
        await service.client.post("/api/chat/simple", json=HELLO)
    assert records(capsys.readouterr().err) == []


async def test_a_request_that_comes_during_the_shutdown_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        service.container.turn_runner().draining = True
        await service.client.post("/api/chat", json=HELLO)
    requests = [record for record in records(capsys.readouterr().err) if record["event"] == "request"]

    assert [(record["status"], record["reason"]) for record in requests] == [(503, "server_shutting_down")]


async def test_an_unexpected_exception_is_logged_without_its_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Buggy:
        async def __call__(self, *_: object) -> None:
            raise KeyError("canary")

    async with running_service({"llm": ScriptedLLM(), "get_history": Buggy()}) as service:
        response = await service.client.get("/api/chat/history/user123")
    output = capsys.readouterr().err
    [failed] = [record for record in records(output) if record["level"] == "error"]

    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["request_id"] == failed["request_id"]
    assert failed["exception"][0]["type"] == "KeyError"
    assert any(place.endswith(" __call__") for place in failed["exception"][0]["at"])
    assert "canary" not in output + response.text


@pytest.mark.parametrize("model", ["401", "500", "err-2", "badjson-2", "html"])
async def test_upstream_error_bodies_are_neither_logged_nor_returned(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = {"user_id": "canary-user", "message": "canary-message"}
    async with (
        ScriptedUpstream() as upstream,
        running_service(
            openai_api_key="sk-canary", openai_base_url=upstream.base_url, openai_model=model, debug=True
        ) as service,
    ):
        responses = [
            await service.client.post("/api/chat", json=message),
            await service.client.get("/api/health/detailed"),
        ]
    output = capsys.readouterr().err

    assert [record for record in records(output) if str(record.get("reason", "")).startswith("upstream_")] != []
    assert "canary" not in output
    assert [response.text for response in responses if "canary" in response.text] == []


@asynccontextmanager
async def logged_service(directory: Path, output: list[str], **environment: Any) -> AsyncIterator[str]:
    """Run a service process and yield its URL; on exit `output` receives everything it printed."""
    async with service_process(directory=directory, **environment) as process:
        yield process.url
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
        output += process.output


async def test_secrets_and_messages_are_neither_logged_nor_returned(tmp_path: Path) -> None:
    c = CANARIES
    environment = {"OPENAI_API_KEY": f"sk-{c[0]}", "MEM0_API_KEY": c[1], "SYSTEM_PROMPT": f"Be {c[2]}.", "DEBUG": "1"}
    headers = {"Authorization": f"Bearer {c[3]}", "Cookie": f"session={c[4]}", "X-API-Key": c[5]}
    output: list[str] = []
    async with (
        ScriptedUpstream() as upstream,
        logged_service(tmp_path, output, OPENAI_BASE_URL=upstream.base_url, OPENAI_MODEL="ok", **environment) as url,
        httpx2.AsyncClient(base_url=url, headers=headers) as client,
    ):
        replies = [
            await client.post("/api/chat", json={"user_id": c[6], "message": c[7], "conversation_id": c[8]}),
            await client.post("/api/chat/simple", json={"user_id": c[6], "message": c[7]}),
            await client.get(f"/api/chat/history/{c[6]}"),
        ]
        unrelated = [
            await client.post("/api/chat", json={"user_id": f"*{c[9]}", "message": c[7], "when_busy": c[10]}),
            await client.post("/api/chat", content=f'{{"{c[11]}', headers={"Content-Type": "application/json"}),
            await client.get(f"/api/chat/history/*{c[9]}?cursor={c[10]}"),
            await client.get(f"/api/chat/turns/{c[10]}?token={c[11]}"),
            await client.get(f"/{c[11]}"),
            await client.get("/api/health"),
            await client.get("/api/health/detailed"),
            await client.get("/openapi.json"),
            await client.get("/docs"),
        ]
    log = "".join(output)
    responses = "".join(f"{response.text} {response.headers}" for response in unrelated)

    assert [reply.status_code for reply in replies] == [200] * 3
    assert upstream.requests[0].headers["authorization"] == f"Bearer sk-{c[0]}"
    assert len([record for record in records(log) if record["event"] == "turn completed"]) == 2
    assert [canary for canary in CANARIES if canary in log] == []
    assert [canary for canary in CANARIES if canary in responses] == []
    assert f"{''.join(TEXTS)}" not in log
