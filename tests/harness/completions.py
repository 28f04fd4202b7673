"""Requests to `/v1/chat/completions` as clients send them, and what they make of the response."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
from openai.types.chat import ChatCompletion, ChatCompletionChunk

PATH = "/v1/chat/completions"


class Service(Protocol):
    """Something that is asked with a client."""

    client: httpx2.AsyncClient


Conversation = Sequence[tuple[str, str]]
"""Messages: role and text."""


def messages(*texts: str, system: str = "") -> list[tuple[str, str]]:
    """Return messages of the user and the assistant in turn, the user's first."""
    roles = ["assistant" if index % 2 else "user" for index in range(len(texts))]
    return [*([("system", system)] if system else []), *zip(roles, texts, strict=True)]


@dataclass
class Answer:
    """A response, with the whole reply whether it was streamed or not."""

    response: httpx2.Response
    text: str = ""
    finish_reason: str | None = None
    error: Mapping[str, Any] | None = None
    chunks: Sequence[ChatCompletionChunk] = ()

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def code(self) -> str | None:
        return self.error["code"] if self.error else None

    @property
    def turn_id(self) -> str | None:
        return self.response.headers.get("X-Turn-ID")

    @property
    def ignored(self) -> list[str]:
        found = self.response.headers.get("X-Ignored-Fields", "")
        return [name for name in found.split(", ") if name]


async def complete(
    service: Service,
    conversation: Conversation,
    chat: str | None = None,
    *,
    stream: bool = True,
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> Answer:
    """Send a conversation, as that of a conversation id if there is one."""
    sent = {"messages": [{"role": role, "content": text} for role, text in conversation], "stream": stream} | fields
    chosen = {"X-Conversation-Id": chat} if chat else {}
    return answer_of(await service.client.post(PATH, json=sent, headers={**chosen, **(headers or {})}))


def answer_of(response: httpx2.Response) -> Answer:
    """Read a response as OpenAI's library does, with its types."""
    if response.is_error:
        error = response.json()["error"]
        assert {"message", "type", "param", "code"} == error.keys()
        return Answer(response, error=error)
    if not response.headers["content-type"].startswith("text/event-stream"):
        whole = ChatCompletion.model_validate(response.json(), strict=True)
        choice = whole.choices[0]
        return Answer(response, choice.message.content or "", choice.finish_reason)
    return _streamed(response)


def _streamed(response: httpx2.Response) -> Answer:
    answer, chunks = Answer(response), []
    *events, rest = response.text.split("\n\n")
    assert rest == ""
    for event in events:
        assert event.startswith("data: ")
        assert "\n" not in event
        data = event.removeprefix("data: ")
        if data == "[DONE]":
            assert event == events[-1]
            break
        if "error" in (found := json.loads(data)):
            answer.error = found["error"]
            assert event == events[-1]
            break
        chunks.append(ChatCompletionChunk.model_validate(found, strict=True))
    answer.chunks = chunks
    answer.text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    answer.finish_reason = reasons[0] if reasons else None
    return answer
