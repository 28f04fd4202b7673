"""Diagnoses of failed calls: facts for the operator, without credentials and text of the request."""

import httpx2
import openai
import pytest

from adapters.openai_api.diagnosis import Diagnostics
from adapters.openai_api.errors import from_event, from_status
from adapters.openai_api.redaction import GAP
from application.ports.llm import LLMDisconnected, LLMError
from domain.conversation import Message, Role

KEY = "sk-canary5e1f0c"
QUESTION = "canary in the user's message"
MESSAGES = [Message(Role.SYSTEM, "Be brief and kind."), Message(Role.USER, QUESTION)]
URL = "http://user:canary-password@example.com:81/v1"
REQUEST = httpx2.Request("POST", "http://example.com:81/v1/chat/completions")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def completed(error: LLMError) -> LLMError:
    diagnostics = Diagnostics(model="m", base_url=URL, api_key=KEY)
    diagnostics.complete(error, MESSAGES, {"max_tokens": 5, "stream_options": {}})
    return error


def refused(status: int, content: str = "", **headers: str) -> LLMError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, text=content, request=REQUEST)
    return completed(from_status(openai.APIStatusError("secret", response=response, body=None)))


def test_every_diagnosis_names_the_host_without_credentials() -> None:
    assert completed(LLMDisconnected()).diagnosis == {"host": "example.com:81"}


def test_the_proxy_is_named_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://user:canary-password@proxy:3128")
    assert completed(LLMDisconnected()).diagnosis == {"host": "example.com:81", "proxy": "proxy:3128"}


def test_a_refusal_is_described_by_status_code_type_parameter_and_message() -> None:
    body = '{"error": {"message": "No such value", "type": "bad", "code": "invalid_value", "param": "temperature"}}'
    assert refused(400, body, content_type="application/json").diagnosis == {
        "http_status": 400,
        "provider_code": "invalid_value",
        "provider_type": "bad",
        "provider_param": "temperature",
        "provider_message": "No such value",
        "host": "example.com:81",
    }


def test_texts_before_which_a_reply_is_to_stop_are_the_clients() -> None:
    body = '{"error": {"message": "Invalid stop: a name of the client", "param": "a name of the client"}}'
    response = httpx2.Response(400, text=body, headers={"content-type": "application/json"}, request=REQUEST)
    error = from_status(openai.APIStatusError("", response=response, body=None))
    Diagnostics(model="m", base_url=URL, api_key=KEY).complete(error, MESSAGES, {"stop": ("a name of the client",)})
    assert error.diagnosis["provider_message"] == f"Invalid stop: {GAP}"
    assert error.diagnosis["provider_param"] == GAP


def test_a_page_is_described_by_its_type_and_visible_text() -> None:
    error = refused(502, "<html><style>x</style><h1>Bad Gateway</h1></html>", content_type="text/html; charset=utf-8")
    assert error.diagnosis["content_type"] == "text/html"
    assert error.diagnosis["provider_message"] == "Bad Gateway"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/v1/chat/completions/", "http://example.com:81/v1/chat/completions/"),
        ("https://user:pw@other.example/v2?token=x", "https://other.example/v2"),
        ("http://[", "not a URL"),
    ],
)
def test_a_redirect_is_described_by_its_target(location: str, target: str) -> None:
    assert refused(308, "", location=location).diagnosis["redirect"] == target


@pytest.mark.parametrize("field", ["message", "code", "type", "param"])
def test_no_field_quotes_the_request_or_a_credential(field: str) -> None:
    for text in (QUESTION, QUESTION.upper(), "-".join(QUESTION.split()), KEY, "canary-password"):
        error = completed(from_event({"message": "no", field: f"x{text}x"}))
        assert "canary" not in f"{error.diagnosis} {error.request} {error} {error.__cause__!r}".lower()
    assert QUESTION not in str(refused(307, "", location=f"http://x/{QUESTION}").diagnosis)


def test_a_request_is_described_by_parameters_and_sizes() -> None:
    assert completed(LLMDisconnected()).request == {
        "model": "m",
        "messages": 2,
        "prompt_chars": 46,
        "largest_message_chars": 28,
        "max_tokens": 5,
    }


@pytest.mark.parametrize(
    ("url", "quoted"),
    [
        ("http://user:pass@example.com/v1", "dXNlcjpwYXNz"),
        ("http://example.com/v1?code=opaque-word", "opaque-word"),
    ],
)
def test_credentials_in_the_base_url_are_redacted_in_the_forms_that_they_are_sent_in(url: str, quoted: str) -> None:
    response = httpx2.Response(400, text=f"Rejected Basic {quoted} here", request=REQUEST)
    error = from_status(openai.APIStatusError("secret", response=response, body=None))
    Diagnostics(model="m", base_url=url, api_key=KEY).complete(error, MESSAGES, {})
    assert error.diagnosis["provider_message"] == "Rejected Basic [...] here"
