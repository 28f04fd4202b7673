"""A service behind a proxy that serves it under a path."""

import pytest

from tests.harness.credentials import ADMIN, KnownCredentials, authentication, bearer
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

HELLO = {"user_id": "user123", "message": "Hello"}


@pytest.mark.parametrize("prefix", ["", "/bot"])
async def test_the_proxy_may_remove_the_path_or_pass_it_on(prefix: str) -> None:
    async with running_service({"llm": ScriptedLLM()}, root_path="/bot") as service:
        client = service.client
        probes = [(await client.get(prefix + path)).status_code for path in ("/livez", "/readyz", "/api/health")]
        reply = await client.post(f"{prefix}/api/chat/simple", json=HELLO)
        missing = await client.get(f"{prefix}/bot/livez/x")
        document = (await client.get(f"{prefix}/openapi.json")).json()

    assert probes == [200, 200, 200]
    assert reply.json()["response"] == "Hello, world!"
    assert missing.status_code == 404
    assert document["servers"] == [{"url": "/bot"}]


@pytest.mark.parametrize("path", ["/bot/api/health/detailed", "/bot/bot/livez", "/%62ot/livez", "/bot//livez"])
async def test_other_spellings_of_the_path_open_nothing(path: str) -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with running_service(overrides, root_path="/bot", **authentication()) as service:
        open_path = await service.client.get("/bot/livez")
        response = await service.client.get(path)
        permitted = await service.client.get(path, headers=bearer(ADMIN))

    assert open_path.status_code == 200
    assert response.status_code == 401
    assert permitted.status_code == (200 if path == "/bot/api/health/detailed" else 404)


async def test_the_path_of_the_proxy_may_be_one_of_the_api() -> None:
    async with running_service({"llm": ScriptedLLM()}, root_path="/api") as service:
        reply = await service.client.post("/api/api/chat/simple", json=HELLO)
        removed_once = await service.client.get("/api/api/api/health")

    assert reply.json()["response"] == "Hello, world!"
    assert removed_once.status_code == 404
