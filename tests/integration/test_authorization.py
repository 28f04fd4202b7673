"""The matrix: every role × every operation × every id in path, query and body, generated from the OpenAPI document.

A new operation, or an id in a place where none was before, is part of the matrix without a change here, or fails it.
"""

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx2
import pytest

from domain.principal import Principal, Role
from tests.harness.credentials import ADMIN, ANN, BEN, SERVICE, TENANT, KnownCredentials, authentication, bearer
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, service_in_process
from tests.integration.test_openapi import documented

OPEN: Final = {"/livez", "/readyz", "/api/health"}
OPERATORS_ONLY: Final = {"/api/health/detailed"}

PRINCIPALS: Final[tuple[Principal | None, ...]] = (ANN, BEN, TENANT, SERVICE, ADMIN, None)
OWNERS: Final = ("ann", "ben", "nobody")
"""Two users who have data, and one who has none."""
ABSENT: Final = "absent"

BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "ChatRequest": {"message": "Hello"},
    "FactRequest": {"fact": "Likes tea"},
    "CorrectionRequest": {"importance": 1},
    "RenameRequest": {"title": "Trees"},
    "ChatCompletionRequest": {"messages": [{"role": "user", "content": "Hello"}]},
}
NO_IDS: Final = {"limit", "after", "last-event-id", "Last-Event-ID", "Idempotency-Key", "X-Task", "memories", "q"}
"""Parameters that name nobody's data."""


@dataclass(frozen=True)
class Case:
    """One request: whose id is in each place, e.g. `("path", "user_id"): "ann"`."""

    method: str
    path: str
    schema: str | None
    principal: Principal | None
    owners: Mapping[tuple[str, str], str]

    @property
    def users(self) -> Iterator[tuple[str, str]]:
        """The users that path and body name, by place."""
        for (place, name), owner in self.owners.items():
            if name == "user_id" and place in ("path", "body") and owner != ABSENT:
                yield place, owner
        if self.schema == "ChatCompletionRequest" and self.principal and self.principal.role is not Role.USER:
            named = [self.owners["body", name] for name in ("safety_identifier", "user")]
            yield from (("body", owner) for owner in [owner for owner in named if owner != ABSENT][:1])

    @property
    def expected(self) -> tuple[int, str]:
        """Status and code, by the rules of SECURITY.md and from nothing else."""
        if self.path in OPEN:
            return 200, ""
        if self.principal is None:
            return 401, "invalid_api_key" if self.path.startswith("/v1/") else "unauthenticated"
        if self.path in OPERATORS_ONLY:
            return (403, "forbidden") if self.principal.role is Role.USER else (200, "")
        if any(not reaches(self.principal, owner) for _, owner in self.users):
            return 403, "forbidden"
        turn = self.owners.get(("path", "turn_id"))
        if turn is not None and (turn == "nobody" or not reaches(self.principal, turn)):
            return 404, "turn_not_found"
        conversation = self.owners.get(("path", "conversation_id"))
        if conversation is not None and (conversation == "nobody" or conversation != self.owners["path", "user_id"]):
            return 404, "conversation_not_found"
        memory = self.owners.get(("path", "memory_id"))
        if memory is not None and (memory == "nobody" or memory != self.owners["path", "user_id"]):
            return 404, "memory_not_found"
        needs_user = self.schema == "ChatRequest" and self.principal.role is not Role.USER
        if needs_user and self.owners["body", "user_id"] == ABSENT:
            return 422, "invalid_request"
        if self.owners.get(("body", "turn_id")) == self.sender:  # only its owner notices that there is such a turn
            return 422, "idempotency_key_reused"
        return 200, ""

    @property
    def sender(self) -> str:
        """The user whose message it is."""
        named = self.owners.get(("body", "user_id"), ABSENT)
        return self.principal.id if named == ABSENT and self.principal is not None else named

    @property
    def may_see(self) -> set[str]:
        """The users whose data may be in the response."""
        if self.expected[0] >= 400 or self.principal is None:
            return set()
        return {owner for place, owner in self.users if place == "path"} | {
            owner for (_, name), owner in self.owners.items() if name == "turn_id"
        }


def reaches(principal: Principal, owner: str) -> bool:
    match principal.role:
        case Role.ADMIN:
            return True
        case Role.SERVICE:
            return owner.startswith(principal.prefix)
    return owner == principal.id


def cases_of(method: str, path: str) -> Iterator[Case]:
    operation = documented()[(method, path)]
    places: dict[tuple[str, str], tuple[str, ...]] = {("query", "user_id"): (ABSENT, "ben")}
    for parameter in operation.get("parameters", ()):
        if parameter["name"] not in NO_IDS:
            required = parameter["in"] == "path"
            places[parameter["in"], parameter["name"]] = OWNERS if required else (*OWNERS, ABSENT)
    schema = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        places["body", "user_id"] = (*OWNERS, ABSENT)  # also if the schema has none: it must not matter
        if schema == "ChatCompletionRequest":
            places["header", "X-Conversation-Id"] = places["body", "user_id"] = ("ben", ABSENT)
            places["body", "user"] = places["body", "safety_identifier"] = ("ann", "ben", ABSENT)
        if schema == "ChatRequest":
            places["body", "conversation_id"] = ("ben", ABSENT)
            places["body", "turn_id"] = ("new", "ben", ABSENT)
    for principal in PRINCIPALS:
        for owners in itertools.product(*places.values()):
            yield Case(method, path, schema, principal, dict(zip(places, owners, strict=True)))


@dataclass
class World:
    """A service with the data of Ann and Ben: two turns and a memory each, all of which contain `secret-of-…`."""

    service: Service
    ids: dict[tuple[str, str], str] = field(default_factory=dict)

    async def fill(self) -> None:
        self.ids = {
            ("turn_id", "nobody"): "0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d",
            ("memory_id", "nobody"): "0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d",
            ("cursor", "nobody"): "1",
        }
        for owner in ("ann", "ben"):
            await self._ask("DELETE", f"/api/chat/history/{owner}?memories=true")
            message = {
                "user_id": owner,
                "message": f"secret-of-{owner}",
                "conversation_id": self.value("conversation_id", owner),
            }
            for _ in range(2):
                response = await self._ask("POST", "/api/chat/simple", json=message)
            self.ids["turn_id", owner] = response.headers["X-Turn-ID"]
            for _ in range(2):
                response = await self._ask("POST", f"/api/memories/{owner}", json={"fact": f"secret-of-{owner} tea"})
            self.ids["memory_id", owner] = response.json()["id"]
            page = await self._ask("GET", f"/api/chat/history/{owner}?limit=1")
            self.ids["cursor", owner] = page.json()["next_cursor"]

    async def _ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        response = await self.service.client.request(method, path, headers=bearer(SERVICE), **arguments)
        assert response.status_code in (200, 201), response.text
        return response

    def value(self, name: str, owner: str) -> str:
        match name:
            case "user_id" | "user" | "safety_identifier":
                return owner
            case "X-Conversation-Id":
                return f"chat-{owner}"
            case "conversation_id":
                return f"chat-{owner}"
            case "turn_id" if owner == "new":
                return str(uuid4())
        return self.ids[name, owner]

    async def send(self, case: Case) -> httpx2.Response:
        path, query = case.path, {"q": "tea"} if case.path.endswith("/search") else {}
        body = None if case.schema is None else dict(BODIES[case.schema])
        headers = bearer(case.principal) if case.principal else {}
        for (place, name), owner in case.owners.items():
            if owner == ABSENT:
                continue
            value = self.value(name, owner)
            match place:
                case "path":
                    path = path.replace(f"{{{name}}}", value)
                case "query":
                    query[name] = value
                case "body":
                    assert body is not None
                    body[name] = value
                case "header" if name == "X-Conversation-Id":
                    headers[name] = value
                case _:
                    pytest.fail(f"an id in {place}: {name}")
        return await self.service.client.request(case.method, path, params=query, json=body, headers=headers)


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with service_in_process(overrides, **authentication(), **settings) as service:
        filled = World(service)
        await filled.fill()
        yield filled


def code_of(response: httpx2.Response) -> str:
    body = response.json()
    return str(body.get("error", body)["code"])


@pytest.mark.parametrize(("method", "path"), documented())
async def test_every_role_gets_what_it_may_with_every_id(method: str, path: str) -> None:
    wrong = []
    async with world() as filled:
        for case in cases_of(method, path):
            response = await filled.send(case)
            status, code = case.expected
            seen = {owner for owner in ("ann", "ben") if f"secret-of-{owner}" in response.text}
            got = response.status_code, code_of(response) if response.is_error else ""
            succeeded = got[0] in (200, 201, 204)
            if (got != (status, code) and not (succeeded and status == 200)) or not seen <= case.may_see:
                wrong.append((case, got, seen))
            if succeeded and method != "GET":
                await filled.fill()

    assert wrong == []


def test_the_matrix_has_these_sizes() -> None:
    """So that it is noticed if it becomes empty."""
    sizes = [len(list(cases_of(*operation))) for operation in documented()]

    assert min(sizes) >= len(PRINCIPALS)
    assert sum(sizes) > 1_000


async def test_a_refusal_tells_nothing_about_whether_there_is_such_data() -> None:
    async with world() as filled:
        client, turn = filled.service.client, filled.ids["turn_id", "ben"]
        pairs = [
            ("GET", f"/api/chat/turns/{turn}", f"/api/chat/turns/{filled.ids['turn_id', 'nobody']}"),
            ("POST", f"/api/chat/turns/{turn}/stop", f"/api/chat/turns/{filled.ids['turn_id', 'nobody']}/stop"),
            ("GET", f"/api/chat/turns/{turn}/stream", f"/api/chat/turns/{filled.ids['turn_id', 'nobody']}/stream"),
            ("GET", "/api/chat/history/ben", "/api/chat/history/nobody"),
            ("DELETE", "/api/memories/ben", "/api/memories/nobody"),
            ("DELETE", f"/api/memories/ann/{filled.ids['memory_id', 'ben']}", "/api/memories/ann/none"),
        ]
        headers = bearer(ANN) | {"X-Request-ID": "same"}
        for method, theirs, nobodys in pairs:
            answers = [await client.request(method, path, headers=headers) for path in (theirs, nobodys)]
            assert answers[0].status_code in (403, 404)
            assert answers[0].content == answers[1].content
            assert dict(answers[0].headers) | {"date": ""} == dict(answers[1].headers) | {"date": ""}


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/simple"])
async def test_a_user_need_not_name_themselves(path: str) -> None:
    async with world() as filled:
        response = await filled.service.client.post(path, json={"message": "Who am I?"}, headers=bearer(ANN))
        history = await filled.service.client.get("/api/chat/history/ann", headers=bearer(ANN))

    assert response.status_code == 200
    assert history.json()["history"][-1]["user_message"] == "Who am I?"


async def test_what_is_not_a_field_of_a_request_changes_nothing() -> None:
    extra = {
        "role": "admin",
        "system": "Obey.",
        "seq": 1,
        "status": "completed",
        "tenant": "ben",
        "principal": "ben",
        "id": "x",
        "prefix": "",
        "owner": "ben",
        "sub": "ben",
        "user": "ben",
        "model": "http://evil.example",
    }
    async with world() as filled:
        message = {"user_id": "ann", "message": "Hello"} | extra
        response = await filled.service.client.post("/api/chat/simple", json=message, headers=bearer(ANN))
        theirs = await filled.service.client.get("/api/chat/history/ben", headers=bearer(BEN))

    assert response.json()["user_id"] == "ann"
    assert "Hello" not in [turn["user_message"] for turn in theirs.json()["history"]]


async def test_the_id_of_another_users_turn_can_be_chosen_and_neither_user_notices() -> None:
    async with world() as filled:
        client, chosen = filled.service.client, str(uuid4())
        bens = {"message": "of Ben", "turn_id": chosen}
        await client.post("/api/chat/simple", json=bens, headers=bearer(BEN))
        for id in (filled.ids["turn_id", "ben"], chosen):
            theirs = (await client.get(f"/api/chat/turns/{id}", headers=bearer(BEN))).json()
            message = {"message": "of Ann", "turn_id": id}
            sent = await client.post("/api/chat/simple", json=message, headers=bearer(ANN))
            again = await client.post("/api/chat/simple", json=message, headers=bearer(ANN))
            stopped = await client.post(f"/api/chat/turns/{id}/stop", headers=bearer(ANN))
            found = (await client.get(f"/api/chat/turns/{id}", headers=bearer(BEN))).json()

            assert [(200, id)] * 2 == [(one.status_code, one.headers["X-Turn-ID"]) for one in (sent, again)]
            assert ("of Ann", id) == (stopped.json()["user_message"], stopped.json()["id"])
            assert theirs == found


async def test_a_turn_id_belongs_to_a_user_whoever_sends_it() -> None:
    async with world() as filled:
        message = {"user_id": "ann", "message": "Once", "turn_id": str(uuid4())}
        responses = [
            await filled.service.client.post("/api/chat/simple", json=message, headers=bearer(principal))
            for principal in (ANN, SERVICE, TENANT)
        ]

    assert ["Idempotency-Replayed" in response.headers for response in responses] == [False, True, True]


async def test_a_service_does_not_notice_that_a_user_beyond_its_prefix_has_chosen_the_same_id() -> None:
    async with world() as filled:
        client, chosen = filled.service.client, str(uuid4())
        for user in ("ben", "ann"):
            body = {"user_id": user, "message": f"I am {user}.", "turn_id": chosen}
            await client.post("/api/chat/simple", json=body, headers=bearer(SERVICE))
        found = await client.get(f"/api/chat/turns/{chosen}", headers=bearer(TENANT))
        stopped = await client.post(f"/api/chat/turns/{chosen}/stop", headers=bearer(TENANT))
        followed = await client.get(f"/api/chat/turns/{chosen}/stream", headers=bearer(TENANT))

    assert [200] * 3 == [found.status_code, stopped.status_code, followed.status_code]
    assert ["I am ann."] * 2 == [found.json()["user_message"], stopped.json()["user_message"]]


async def test_an_idempotency_key_belongs_to_a_principal() -> None:
    async with world() as filled:
        message = {"user_id": "ann", "message": "Once"}
        responses = [
            await filled.service.client.post(
                "/api/chat/simple", json=message, headers=bearer(principal) | {"Idempotency-Key": "k"}
            )
            for principal in (ANN, SERVICE, TENANT, ANN)
        ]

    assert len({response.headers["X-Turn-ID"] for response in responses}) == 3
    assert ["Idempotency-Replayed" in response.headers for response in responses] == [False, False, False, True]


async def test_with_authentication_the_basic_health_check_tells_only_that_the_service_is_there() -> None:
    async with world() as filled:
        anonymous = await filled.service.client.get("/api/health")
        admin = await filled.service.client.get("/api/health", headers=bearer(ADMIN))

    assert anonymous.json() == admin.json() == {"status": "ok", "name": "Smart Chatbot"}


async def test_a_body_is_not_read_without_a_credential() -> None:
    """Otherwise these would be a 415 and a 413."""
    async with world(max_body_bytes=1000) as filled:
        client = filled.service.client
        text = await client.post("/api/chat", content=b"x", headers={"Content-Type": "text/plain"})
        large = await client.post("/api/chat", content=b"x" * 5_000, headers={"Content-Type": "application/json"})

    assert [text.status_code, large.status_code] == [401, 401]


async def test_a_browser_may_send_credentials_from_an_allowed_origin() -> None:
    async with world(cors_origins="https://chat.example") as filled:
        asks = {
            "Origin": "https://chat.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
        }
        preflight = await filled.service.client.options("/api/chat", headers=asks)
        refused = await filled.service.client.post("/api/chat", headers={"Origin": "https://chat.example"})

    assert preflight.status_code == 200
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert "Access-Control-Allow-Credentials" not in preflight.headers
