"""Errors as the model services of many vendors report them, and the meaning of each.

Each entry of `refusals.json` is the status and body of a response, with the outcome that it must have: the code of the
error, whether a later retry may help, the setting that the caller is told to check, and the numbers in the text.
"""

import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from adapters.openai_api.errors import from_status
from application.ports.llm import LLMContextTooLong, LLMError

REFUSALS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "refusals.json").read_text("utf-8"))
REQUEST = httpx2.Request("POST", "https://model.test/v1/chat/completions")


def translated(entry: dict[str, Any]) -> LLMError:
    body = entry["body"]
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    response = httpx2.Response(entry["status"], content=content, request=REQUEST)
    return from_status(openai.APIStatusError("", response=response, body=None))


@pytest.mark.parametrize(
    "entry", [pytest.param(entry, id=f"{entry['service']}-{index}") for index, entry in enumerate(REFUSALS)]
)
def test_the_refusal_of_a_service_has_its_meaning(entry: dict[str, Any]) -> None:
    error = translated(entry)
    assert (error.code, error.retryable, error.retry_after) == (
        entry["code"],
        entry["retryable"],
        entry.get("retry_after"),
    )
    assert error.repeatable is entry.get("repeatable", error.repeatable)
    assert entry.get("hint", "") in error.detail
    if isinstance(error, LLMContextTooLong):
        assert (error.limit, error.prompt_tokens) == (entry.get("limit"), entry.get("prompt_tokens"))


def test_every_refusal_is_listed_once() -> None:
    bodies = {json.dumps([entry["status"], entry["body"]]) for entry in REFUSALS}
    assert len(bodies) == len(REFUSALS) > 100
