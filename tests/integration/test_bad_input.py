"""Whatever is wrong with a request, the answer says what, where, and not what was sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from tests.harness.corpus import BAD_IDS, GOOD_IDS
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service

HELLO = {"user_id": "user123", "message": "Hello"}
CHAT = ("/api/chat", "/api/chat/simple")
JSON = {"Content-Type": "application/json"}

PROBLEM = ["type", "title", "status", "detail", "code", "retryable", "request_id"]

BAD_FIELDS: Mapping[str, tuple[dict[str, Any], str]] = {
    "no user": ({"message": "Hello"}, "#/user_id"),
    "no message": ({"user_id": "user123"}, "#/message"),
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
    "message is white": (HELLO | {"message": " \t\r\n\u00a0\u2028\u3000"}, "#/message"),
    "message has NUL": (HELLO | {"message": "canary\0"}, "#/message"),
    "message has a high surrogate": (HELLO | {"message": "canary\ud83d"}, "#/message"),
    "message has a low surrogate": (HELLO | {"message": "\ude00canary"}, "#/message"),
    "conversation is a number": (HELLO | {"conversation_id": 1}, "#/conversation_id"),
    "conversation is a star": (HELLO | {"conversation_id": "*canary"}, "#/conversation_id"),
    "on_disconnect is unknown": (HELLO | {"on_disconnect": "canary"}, "#/on_disconnect"),
    "on_disconnect is a surrogate": (HELLO | {"on_disconnect": "\ud800"}, "#/on_disconnect"),
    "when_busy is unknown": (HELLO | {"when_busy": "canary"}, "#/when_busy"),
    "memory is a text": (HELLO | {"memory": "canary"}, "#/memory"),
    "memory is null": (HELLO | {"memory": None}, "#/memory"),
    "when_busy is null": (HELLO | {"when_busy": None}, "#/when_busy"),
}

NO_OBJECTS = ("[]", "null", "1", '"canary"', "true", "[" + json.dumps(HELLO) + "]")

NO_JSON = {
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
    ("TRACE", "/api/health"): "GET",
    ("PATCH", "/livez"): "GET",
}
"""Methods that are not served, and those that are."""

OTHER_TYPES = (
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


def check(answer: httpx2.Response, status: int, code: str, *more: str) -> None:
    """The answer is this problem, in the one shape that problems have, and repeats nothing of the request."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    body = answer.json()
    assert list(body) == [*PROBLEM, *more]
    assert (body["status"], body["code"], body["retryable"]) == (status, code, False)
    assert body["type"] == f"urn:problem-type:smart-chatbot:{code}"
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert "canary" not in answer.text


@pytest.mark.parametrize("path", CHAT)
async def test_a_field_that_is_missing_or_wrong_is_pointed_at(path: str, service: Service) -> None:
    pointers = {}
    for name, (body, _) in BAD_FIELDS.items():
        answer = await send(service, encoded(body), path)
        check(answer, 422, "invalid_request", "errors")
        pointers[name] = [one["pointer"] for one in answer.json()["errors"]]

    assert pointers == {name: [pointer] for name, (_, pointer) in BAD_FIELDS.items()}


async def test_everything_that_is_wrong_is_told_at_once(service: Service) -> None:
    answer = await send(service, b'{"message": " ", "when_busy": 7}')

    check(answer, 422, "invalid_request", "errors")
    assert [one["pointer"] for one in answer.json()["errors"]] == ["#/user_id", "#/message", "#/when_busy"]


@pytest.mark.parametrize("path", CHAT)
async def test_a_body_that_is_no_object_is_refused_as_a_whole(path: str, service: Service) -> None:
    for body in NO_OBJECTS:
        answer = await send(service, body.encode(), path)
        check(answer, 422, "invalid_request", "errors")
        assert [one["pointer"] for one in answer.json()["errors"]] == ["#"]


@pytest.mark.parametrize("path", CHAT)
async def test_a_body_that_is_not_json_is_refused_as_such(path: str, service: Service) -> None:
    for body in NO_JSON.values():
        check(await send(service, body, path), 400, "malformed_json")


async def test_fields_that_are_not_known_are_ignored(service: Service) -> None:
    many = {f"key{number}": number for number in range(10_000)}
    answer = await send(service, encoded(HELLO | many), "/api/chat/simple")

    assert (answer.status_code, answer.json()["response"]) == (200, "Hello, world!")


async def test_a_hundred_thousand_fields_are_read_where_they_fit() -> None:
    body = encoded(HELLO | {f"k{number}": number for number in range(100_000)})
    async with running_service({"llm": ScriptedLLM()}, max_body_bytes=2_000_000) as service:
        assert (await send(service, body)).status_code == 200


async def test_a_body_of_another_type_is_refused(service: Service) -> None:
    for kind in OTHER_TYPES:
        for path in CHAT:
            answer = await service.client.post(path, content=encoded(HELLO), headers={"Content-Type": kind})
            check(answer, 415, "unsupported_media_type")


async def test_a_body_without_a_type_is_refused(service: Service) -> None:
    check(await service.client.post("/api/chat", content=encoded(HELLO)), 415, "unsupported_media_type")


async def test_json_is_taken_however_its_type_is_written(service: Service) -> None:
    kinds = ("application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y", "application/vnd.x+json")
    answers = [await send(service, encoded(HELLO), "/api/chat/simple", **{"Content-Type": kind}) for kind in kinds]

    assert [answer.status_code for answer in answers] == [200] * 4


async def test_a_query_that_is_wrong_is_pointed_at(service: Service) -> None:
    pointers = {}
    for path in BAD_QUERIES:
        answer = await service.client.get(path)
        check(answer, 422, "invalid_request", "errors")
        pointers[path] = answer.json()["errors"][0]["pointer"]

    assert pointers == BAD_QUERIES


async def test_an_id_is_accepted_readable_and_deletable(service: Service) -> None:
    seen = {}
    for user in GOOD_IDS:
        sent = await send(service, encoded(HELLO | {"user_id": user, "conversation_id": user}), "/api/chat/simple")
        path = f"/api/chat/history/{quote(user, safe='')}?conversation_id={quote(user, safe='')}"
        read = await service.client.get(path)
        deleted = await service.client.delete(path)
        assert (read.json()["user_id"], deleted.json()["user_id"]) == (user, user)
        seen[user] = (sent.status_code, read.json()["count"], deleted.json()["deleted"])

    assert seen == dict.fromkeys(GOOD_IDS, (200, 1, 1))


async def test_what_is_no_id_is_neither_accepted_nor_readable_nor_deletable(service: Service) -> None:
    refused = {}
    for user in BAD_IDS:
        sent = await send(service, encoded(HELLO | {"user_id": user}), "/api/chat/simple")
        check(sent, 422, "invalid_request", "errors")
        path = f"/api/chat/history/{quote(user, safe='').replace('.', '%2E')}"
        answers = [await service.client.request(method, path) for method in ("GET", "DELETE")]
        refused[user] = {answer.status_code for answer in answers} <= {404, 422}

    assert refused == dict.fromkeys(BAD_IDS, True)


async def test_what_is_no_id_is_pointed_at_in_the_path_too(service: Service) -> None:
    for user in ("user123\n", "*", "a b", "jürgen", "x" * 129, "-a"):
        for method in ("GET", "DELETE"):
            answer = await service.client.request(method, f"/api/chat/history/{quote(user)}")
            check(answer, 422, "invalid_request", "errors")
            assert [one["pointer"] for one in answer.json()["errors"]] == ["#/path/user_id"]


async def test_a_path_that_leads_nowhere_is_not_found(service: Service) -> None:
    for path in ("/", "/api", "/api/chat/", "/api/chat/canary", "/api/chat/history", "/api/chat/history/", "/API/CHAT",
                 "/api/chat/history/canary/x", "/api/chat/turns", "/api/chat/turns/", "//api/chat", "/%00", "/\u2603",
                 "/api/chat/turns/canary/", "/x" * 4000, "/.env", "/api/../etc/passwd"):  # fmt: skip
        check(await service.client.get(path), 404, "not_found")


async def test_a_method_that_is_not_served_is_refused_with_those_that_are(service: Service) -> None:
    allowed = {}
    for method, path in NOT_ALLOWED:
        answer = await service.client.request(method, path)
        check(answer, 405, "method_not_allowed")
        allowed[method, path] = answer.headers["Allow"]

    assert allowed == NOT_ALLOWED


async def test_a_message_that_is_too_long_is_refused_with_the_limit() -> None:
    async with running_service({"llm": ScriptedLLM()}, max_message_chars=100) as service:
        for path in CHAT:
            answer = await send(service, encoded(HELLO | {"message": "é" * 101}), path)
            check(answer, 413, "message_too_long")
            assert answer.json()["detail"] == "The message has 101 characters; the limit is 100."
        answer = await send(service, encoded(HELLO | {"message": "é" * 100}))

        assert answer.status_code == 200


async def test_a_message_that_can_not_fit_the_context_is_refused() -> None:
    async with running_service({"llm": ScriptedLLM()}, context_tokens=100) as service:
        check(await send(service, encoded(HELLO | {"message": "long words " * 500})), 413, "context_too_long")
        assert (await service.client.get("/api/chat/history/user123")).json()["count"] == 0


# Bodies that are too large


async def raw(service: Service, *pieces: bytes) -> bytes:
    """What comes back over a connection of its own until the service closes it."""
    where = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
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
    start = ("POST /api/chat HTTP/1.1", "Host: x", "Content-Type: application/json", *lines)
    return "".join(f"{line}\r\n" for line in (*start, "")).encode()


@pytest.fixture
async def narrow() -> AsyncIterator[Service]:
    async with running_service({"llm": ScriptedLLM()}, max_body_bytes=1000) as running:
        yield running


async def test_a_body_of_the_greatest_size_is_read_and_one_byte_more_is_refused(narrow: Service) -> None:
    body = encoded(HELLO)
    fits = body + b" " * (1000 - len(body))

    assert (await raw(narrow, head("Content-Length: 1000", "Connection: close") + fits)).startswith(b"HTTP/1.1 200 ")
    assert (await raw(narrow, head("Content-Length: 1001") + fits + b" ")).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(narrow: Service) -> None:
    answer = await raw(narrow, head("Content-Length: 1000000000"), b"{")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer
    assert b"connection: close" in answer.lower()


async def test_a_chunked_body_without_end_is_refused_while_it_comes(narrow: Service) -> None:
    answer = await raw(narrow, head("Transfer-Encoding: chunked"), *[b"190\r\n" + b" " * 400 + b"\r\n"] * 3)

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_is_longer_than_announced_is_cut_there(narrow: Service) -> None:
    answer = await raw(narrow, head("Content-Length: 5", "Connection: close"), encoded(HELLO))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_json"' in answer


async def test_a_length_that_is_none_is_refused(narrow: Service) -> None:
    lengths = ("-1", "x", "1e3", "9" * 400, "5, 6", "")
    answers = {
        length: await raw(narrow, head(f"Content-Length: {length}", "Connection: close"), encoded(HELLO))
        for length in lengths
    }

    assert {length: answer[:10] for length, answer in answers.items()} == dict.fromkeys(lengths, b"HTTP/1.1 4")
