"""Health checks by HEAD, as `wget --spider`, `curl -I` and many orchestrators request them."""

import pytest

from tests.harness.credentials import authentication
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

PATHS = ("/livez", "/readyz", "/api/health", "/api/health/detailed")


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_like_get_without_a_body(path: str) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        got, head = [await service.client.request(method, path) for method in ("GET", "HEAD")]

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers.keys() == got.headers.keys()
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_head_reports_a_service_that_is_not_ready() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.container.turn_runner().drain(0)
        statuses = [(await service.client.head(path)).status_code for path in ("/livez", "/readyz")]

    assert statuses == [200, 503]


async def test_with_authentication_head_needs_the_same_credentials_as_get() -> None:
    async with running_service({"llm": ScriptedLLM()}, **authentication()) as service:
        statuses = [(await service.client.head(path)).status_code for path in PATHS]

    assert statuses == [200, 200, 200, 401]


async def test_the_allow_header_names_every_method_of_a_path() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        allowed = {
            path: (await service.client.put(path)).headers["Allow"]
            for path in ("/livez", "/api/memories/user123", "/api/chat")
        }

    assert allowed == {"/livez": "GET, HEAD", "/api/memories/user123": "DELETE, GET, POST", "/api/chat": "POST"}
