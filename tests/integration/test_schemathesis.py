"""Requests generated from the OpenAPI document: every response conforms to it."""

from typing import Any

import anyio.to_thread
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.harness import event_schemas  # noqa: F401  (registers a hook)
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import running_service
from tests.integration.test_openapi import documented

pytestmark = pytest.mark.server

# JSON Schema cannot express cursors or blank messages, so the service may reject requests that match the schema.
EXCLUDED: list[CheckFunction] = [positive_data_acceptance]


def send_generated_requests(url: str, method: str, path: str) -> None:
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy())
    def send(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(excluded_checks=EXCLUDED, timeout=30)

    send()


@pytest.mark.parametrize(("method", "path"), documented())
async def test_responses_conform_to_the_document(method: str, path: str) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(finish_reason="length"))}) as service:
        await anyio.to_thread.run_sync(send_generated_requests, service.url, method, path)
