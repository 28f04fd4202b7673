"""Requests generated from the OpenAPI document: every response conforms to it, whatever the credentials."""

from pathlib import Path

import pytest

from tests.harness.generated_requests import MODES, send_generated_requests

pytestmark = pytest.mark.server


@pytest.mark.parametrize("mode", MODES)
async def test_responses_conform_to_the_document(mode: str, tmp_path: Path) -> None:
    """A small part of `python -m tests.bench.conformance`."""
    phases = ("--phases=examples,coverage,fuzzing", "--generation-deterministic")

    status, output = await send_generated_requests(mode, tmp_path, 10, *phases)

    assert status == 0, output
