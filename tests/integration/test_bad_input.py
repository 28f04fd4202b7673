"""Invalid requests: the problem locates the error and does not quote the input."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from tests.harness.corpus import BAD_IDS, GOOD_IDS
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

HELLO = {"user_id": "user123", "message": "Hello"}
CHAT = ("/api/chat", "/api/chat/simple")
JSON = {"Content-Type": "application/json"}

PROBLEM = ["type", "title", "status", "detail", "code", "retryable", "request_id"]

BAD_FIELDS: Mapping[str, tuple[dict[str, Any], str]] = {
    "user is missing": ({"message": "Hello"}, "#/user_id"),
    "message is missing": ({"user_id": "user123"}, "#/message"),
    "user is null": (HELLO | {"user_id": None}, "#/user_id"),
    "user is a number": (HELLO | {"user_id": 1}, "#/user_id"),
    "user is a list": (HELLO | {"user_id": ["user123"]}, "#/user_id"),
    "user is an object": (HELLO | {"user_id": {"canary": 1}}, "#/user_id"),
    "user is a lone surrogate": (HELLO | {"user_id": "\ud800"}, "#/user_id"),
    "message is null": (HELLO | {"message": None}, "#/message"),
    "message is a number": (HELLO | {"message": 1}, "#/message"),
    "message is true": (HELLO | {"message": True}, "#/message"),
    "message is a list": (HELLO | {"message": ["canary"]}, "#/message"),
    "message is empty": (HELLO | {"message": ""}, "#/message"),
    "message is spaces": (HELLO | {"message": "   "}, "#/message"),
    "message is whitespace": (HELLO | {"message": " \t\r\n\u00a0\u2028\u3000"}, "#/message"),
    "message has NUL": (HELLO | {"message": "canary\0"}, "#/message"),
    "message has a high surrogate": (HELLO | {"message": "canary\ud83d"}, "#/message"),
    "message has a low surrogate": (HELLO | {"message": "\ude00canary"}, "#/message"),
    "conversation is a number": (HELLO | {"conversation_id": 1}, "#/conversation_id"),
    "conversation is a star": (HELLO | {"conversation_id": "*canary"}, "#/conversation_id"),
    "on_disconnect is unknown": (HELLO | {"on_disconnect": "canary"}, "#/on_disconnect"),
    "on_disconnect is a surrogate": (HELLO | {"on_disconnect": "\ud800"}, "#/on_disconnect"),
    "when_busy is unknown": (HELLO | {"when_busy": "canary"}, "#/when_busy"),
    "memory is a string": (HELLO | {"memory": "canary"}, "#/memory"),
    "memory is null": (HELLO | {"memory": None}, "#/memory"),
    "when_busy is null": (HELLO | {"when_busy": None}, "#/when_busy"),
}

NOT_AN_OBJECT = ("[]", "null", "1", '"canary"', "true", "[" + json.dumps(HELLO) + "]")

NOT_JSON = {
    "empty": b"",
    "cut": b'{"user_id": "canary", "mess',
    "two": b"{} {}",
    "form": b"user_id=canary&message=Hello",
    "NaN": b'{"user_id": "canary", "message": "Hello", "x": NaN}',
    "1e999": b'{"user_id": "canary", "message": "Hello", "x": 1e999}',
    "5000 digits": b'{"user_id": "canary", "message": "Hello", "x": ' + b"9" * 5000 + b"}",
    "twice": b'{"user_id": "canary", "user_id": "ben", "message": "Hello"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "latin-1": '{"user_id": "canary", "message": "Grüße"}'.encode("latin-1"),
    "utf-16": json.dumps(HELLO).encode("utf-16"),
    "NUL": b'{"user_id": "canary", "message": "\x00"}',
}

BAD_QUERIES = {
    "/api/chat/history/user123?limit=0": "#/query/limit",
    "/api/chat/history/user123?limit=201": "#/query/limit",
    "/api/chat/history/user123?limit=-1": "#/query/limit",
    "/api/chat/history/user123?limit=canary": "#/query/limit",
    "/api/chat/history/user123?limit=": "#/query/limit",
    "/api/chat/history/user123?limit=1.5": "#/query/limit",
    f"/api/chat/history/user123?limit={'9' * 5000}": "#/query/limit",
    "/api/chat/history/user123?cursor=canary": "#/query/cursor",
    "/api/chat/history/user123?cursor=": "#/query/cursor",
    "/api/chat/history/user123?cursor=-1": "#/query/cursor",
    "/api/chat/history/user123?cursor=%00": "#/query/cursor",
    "/api/chat/history/user123?cursor=%D9%A3": "#/query/cursor",
    f"/api/chat/history/user123?cursor={'9' * 5000}": "#/query/cursor",
    "/api/chat/history/user123?conversation_id=": "#/query/conversation_id",
    "/api/chat/history/user123?conversation_id=*canary": "#/query/conversation_id",
    "/api/chat/history/user123?conversation_id=a%0a": "#/query/conversation_id",
    "/api/chat/conversations/user123?limit=canary": "#/query/limit",
    "/api/chat/conversations/user123?cursor=canary": "#/query/cursor",
    "/api/chat/conversations/*canary": "#/path/user_id",
    "/api/chat/history/canary%0a": "#/path/user_id",
    "/api/memories/user123?limit=201": "#/query/limit",
    "/api/memories/user123?cursor=canary": "#/query/cursor",
    "/api/memories/*canary": "#/path/user_id",
    "/api/memories/user123/search": "#/query/q",
    "/api/memories/user123/search?q=x&limit=canary": "#/query/limit",
    "/api/memories/canary%0a/search?q=x": "#/path/user_id",
}


NOT_ALLOWED = {
    ("GET", "/api/chat"): "POST",
    ("PUT", "/api/chat"): "POST",
    ("GET", "/api/chat/simple"): "POST",
    ("DELETE", "/api/chat/conversations/user123"): "GET",
    ("GET", "/api/chat/turns/x/stop"): "POST",
    ("POST", "/api/chat/turns/x/stream"): "GET",
    ("PUT", "/api/memories/user123"): "DELETE, GET, POST",
    ("GET", "/api/memories/user123/x"): "DELETE, PATCH",
    ("TRACE", "/api/health"): "GET, HEAD",
    ("PATCH", "/livez"): "GET, HEAD",
}
"""Unsupported methods, and the `Allow` header of the response."""

UNSUPPORTED_TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "application/octet-stream",
    "application/json-seq",
    "text/plain; application/json",
    "json",
    "canary",
    "",
)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running_service({"llm": ScriptedLLM()}) as running:
        yield running


async def send(service: Service, body: bytes, path: str = "/api/chat", **headers: str) -> httpx2.Response:
    return await service.client.post(path, content=body, headers=JSON | headers)


def encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def assert_problem(response: httpx2.Response, status: int, code: str, *more: str) -> None:
    """Assert that the response is this problem, with the keys of every problem, and does not quote the request."""
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    body = response.json()
    assert list(body) == [*PROBLEM, *more]
    assert (body["status"], body["code"], body["retryable"]) == (status, code, False)
    assert body["type"] == f"urn:problem-type:smart-chatbot:{code}"
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert "canary" not in response.text


@pytest.mark.parametrize("path", CHAT)
async def test_a_missing_or_invalid_field_is_located(path: str, service: Service) -> None:
    pointers = {}
    for name, (body, _) in BAD_FIELDS.items():
        response = await send(service, encoded(body), path)
        assert_problem(response, 422, "invalid_request", "errors")
        pointers[name] = [error["pointer"] for error in response.json()["errors"]]

    assert pointers == {name: [pointer] for name, (_, pointer) in BAD_FIELDS.items()}


async def test_all_invalid_fields_are_reported_at_once(service: Service) -> None:
    response = await send(service, b'{"message": " ", "when_busy": 7}')

    assert_problem(response, 422, "invalid_request", "errors")
    assert [error["pointer"] for error in response.json()["errors"]] == ["#/user_id", "#/message", "#/when_busy"]


@pytest.mark.parametrize("path", CHAT)
async def test_a_body_that_is_not_an_object_is_rejected(path: str, service: Service) -> None:
    for body in NOT_AN_OBJECT:
        response = await send(service, body.encode(), path)
        assert_problem(response, 422, "invalid_request", "errors")
        assert [error["pointer"] for error in response.json()["errors"]] == ["#"]


@pytest.mark.parametrize("path", CHAT)
async def test_a_body_that_is_not_json_is_rejected(path: str, service: Service) -> None:
    for body in NOT_JSON.values():
        assert_problem(await send(service, body, path), 400, "malformed_json")


async def test_unknown_fields_are_ignored(service: Service) -> None:
    many = {f"key{number}": number for number in range(10_000)}
    response = await send(service, encoded(HELLO | many), "/api/chat/simple")

    assert (response.status_code, response.json()["response"]) == (200, "Hello, world!")


async def test_a_hundred_thousand_fields_are_accepted_within_the_size_limit() -> None:
    body = encoded(HELLO | {f"k{number}": number for number in range(100_000)})
    async with running_service({"llm": ScriptedLLM()}, max_body_bytes=2_000_000) as service:
        assert (await send(service, body)).status_code == 200


async def test_a_message_of_the_maximum_length_is_accepted_even_if_each_character_is_escaped() -> None:
    body = json.dumps(HELLO | {"message": "😀" * 32_000}).encode()
    assert len(body) > 12 * 32_000
    async with running_service({"llm": ScriptedLLM()}, context_tokens=1_000_000) as service:
        assert (await send(service, body, "/api/chat/simple")).status_code == 200


async def test_a_body_of_an_unsupported_content_type_is_rejected(service: Service) -> None:
    for kind in UNSUPPORTED_TYPES:
        for path in CHAT:
            response = await service.client.post(path, content=encoded(HELLO), headers={"Content-Type": kind})
            assert_problem(response, 415, "unsupported_media_type")


async def test_a_body_without_a_content_type_is_rejected(service: Service) -> None:
    assert_problem(await service.client.post("/api/chat", content=encoded(HELLO)), 415, "unsupported_media_type")


async def test_variants_of_the_json_content_type_are_accepted(service: Service) -> None:
    kinds = ("application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y", "application/vnd.x+json")
    responses = [await send(service, encoded(HELLO), "/api/chat/simple", **{"Content-Type": kind}) for kind in kinds]

    assert [response.status_code for response in responses] == [200] * 4


@pytest.mark.parametrize("codings", [["gzip"], ["GZIP"], ["br, identity"], ["identity", "zstd"], ["unknown"]])
async def test_a_compressed_body_is_rejected_with_the_accepted_coding(codings: list[str], service: Service) -> None:
    headers = [("Content-Type", "application/json"), *(("Content-Encoding", coding) for coding in codings)]
    for path in CHAT:
        response = await service.client.post(path, content=gzip.compress(encoded(HELLO)), headers=headers)

        assert_problem(response, 415, "unsupported_media_type")
        assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
async def test_the_content_coding_identity_is_accepted(coding: str, service: Service) -> None:
    response = await send(service, encoded(HELLO), "/api/chat/simple", **{"Content-Encoding": coding})

    assert response.status_code == 200


async def test_a_content_coding_without_a_body_is_ignored(service: Service) -> None:
    response = await service.client.get("/api/chat/history/user123", headers={"Content-Encoding": "gzip"})

    assert response.status_code == 200


async def test_an_invalid_query_parameter_is_located(service: Service) -> None:
    pointers = {}
    for path in BAD_QUERIES:
        response = await service.client.get(path)
        assert_problem(response, 422, "invalid_request", "errors")
        pointers[path] = response.json()["errors"][0]["pointer"]

    assert pointers == BAD_QUERIES


async def test_every_valid_id_is_accepted_readable_and_deletable(service: Service) -> None:
    seen = {}
    for user in GOOD_IDS:
        sent = await send(service, encoded(HELLO | {"user_id": user, "conversation_id": user}), "/api/chat/simple")
        path = f"/api/chat/history/{quote(user, safe='')}?conversation_id={quote(user, safe='')}"
        read = await service.client.get(path)
        deleted = await service.client.delete(path)
        assert (read.json()["user_id"], deleted.json()["user_id"]) == (user, user)
        seen[user] = (sent.status_code, read.json()["count"], deleted.json()["deleted"])

    assert seen == dict.fromkeys(GOOD_IDS, (200, 1, 1))


async def test_an_invalid_id_is_neither_accepted_nor_readable_nor_deletable(service: Service) -> None:
    rejected = {}
    for user in BAD_IDS:
        sent = await send(service, encoded(HELLO | {"user_id": user}), "/api/chat/simple")
        assert_problem(sent, 422, "invalid_request", "errors")
        path = f"/api/chat/history/{quote(user, safe='').replace('.', '%2E')}"
        responses = [await service.client.request(method, path) for method in ("GET", "DELETE")]
        rejected[user] = {response.status_code for response in responses} <= {404, 422}

    assert rejected == dict.fromkeys(BAD_IDS, True)


async def test_an_invalid_id_in_the_path_is_located(service: Service) -> None:
    for user in ("user123\n", "*", "a b", "jürgen", "x" * 129, "-a"):
        for method in ("GET", "DELETE"):
            response = await service.client.request(method, f"/api/chat/history/{quote(user)}")
            assert_problem(response, 422, "invalid_request", "errors")
            assert [error["pointer"] for error in response.json()["errors"]] == ["#/path/user_id"]


async def test_an_unknown_path_is_not_found(service: Service) -> None:
    for path in ("/page", "/api", "/api/chat/", "/api/chat/canary", "/api/chat/history", "/api/chat/history/",
                 "/api/chat/history/canary/x", "/api/chat/turns", "/api/chat/turns/", "//api/chat", "/%00", "/\u2603",
                 "/api/chat/turns/canary/", "/x" * 4000, "/.env", "/api/../etc/passwd", "/API/CHAT"):  # fmt: skip
        assert_problem(await service.client.get(path), 404, "not_found")


async def test_an_unsupported_method_is_rejected_with_the_allowed_ones(service: Service) -> None:
    allowed = {}
    for method, path in NOT_ALLOWED:
        response = await service.client.request(method, path)
        assert_problem(response, 405, "method_not_allowed")
        allowed[method, path] = response.headers["Allow"]

    assert allowed == NOT_ALLOWED


async def test_a_message_that_is_too_long_is_rejected_with_the_limit() -> None:
    async with running_service({"llm": ScriptedLLM()}, max_message_chars=100) as service:
        for path in CHAT:
            response = await send(service, encoded(HELLO | {"message": "é" * 101}), path)
            assert_problem(response, 413, "message_too_long")
            assert response.json()["detail"] == "The message has 101 characters; the limit is 100."
        response = await send(service, encoded(HELLO | {"message": "é" * 100}))

        assert response.status_code == 200


async def test_a_message_that_exceeds_the_context_is_rejected() -> None:
    async with running_service({"llm": ScriptedLLM()}, context_tokens=100) as service:
        assert_problem(await send(service, encoded(HELLO | {"message": "long words " * 500})), 413, "context_too_long")
        assert (await service.client.get("/api/chat/history/user123")).json()["count"] == 0


# Oversized bodies


async def raw(service: Service, *pieces: bytes) -> bytes:
    """Send raw bytes on a new connection and return everything received until the service closes it."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def head(*lines: str) -> bytes:
    start = ("POST /api/chat HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines)
    return "".join(f"{line}\r\n" for line in (*start, "")).encode()


@pytest.fixture
async def small_limit() -> AsyncIterator[Service]:
    async with running_service({"llm": ScriptedLLM()}, max_body_bytes=1000) as running:
        yield running


async def test_a_body_of_the_maximum_size_is_accepted_and_one_byte_more_is_rejected(small_limit: Service) -> None:
    body = encoded(HELLO)
    fits = body + b" " * (1000 - len(body))

    assert (await raw(small_limit, head("Content-Length: 1000", "Connection: close") + fits)).startswith(
        b"HTTP/1.1 200 "
    )
    assert (await raw(small_limit, head("Content-Length: 1001") + fits + b" ")).startswith(b"HTTP/1.1 413 ")


async def test_a_body_with_an_oversized_content_length_is_rejected_before_it_is_read(small_limit: Service) -> None:
    response = await raw(small_limit, head("Content-Length: 1000000000"), b"{")

    assert response.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in response
    assert b"connection: close" in response.lower()


async def test_an_endless_chunked_body_is_rejected_while_it_is_read(small_limit: Service) -> None:
    response = await raw(small_limit, head("Transfer-Encoding: chunked"), *[b"190\r\n" + b" " * 400 + b"\r\n"] * 3)

    assert response.startswith(b"HTTP/1.1 413 ")


async def test_a_body_is_truncated_to_its_content_length(small_limit: Service) -> None:
    response = await raw(small_limit, head("Content-Length: 5", "Connection: close"), encoded(HELLO))

    assert response.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_json"' in response


async def test_an_invalid_content_length_is_rejected(small_limit: Service) -> None:
    lengths = ("-1", "x", "1e3", "9" * 400, "5, 6", "")
    responses = {
        length: await raw(small_limit, head(f"Content-Length: {length}", "Connection: close"), encoded(HELLO))
        for length in lengths
    }

    assert {length: response[:10] for length, response in responses.items()} == dict.fromkeys(lengths, b"HTTP/1.1 4")


@pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=9-0", "bytes=x", "pages=1", ""])
async def test_a_range_of_a_file_is_ignored(wanted: str, service: Service) -> None:
    response = await service.client.get("/docs/swagger-ui.css", headers={"Range": wanted})

    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert len(response.content) > 100_000
