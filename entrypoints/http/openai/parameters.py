"""The parameters of a request: honoured, rejected, or named as ignored."""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from starlette.types import Scope

from application.ports.llm import ReplyOptions
from domain.principal import Principal
from entrypoints.http.openai.errors import model_not_found
from entrypoints.http.openai.schemas import SYSTEM, ChatCompletionRequest
from entrypoints.http.unknown_fields import header_of
from entrypoints.settings import Settings

_HONOURED: Final = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "safety_identifier",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "user",
    }
)

_WITHOUT_EFFECT: Final[Mapping[str, Any]] = {
    "frequency_penalty": 0,
    "function_call": "none",
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "metadata": {},
    "modalities": ["text"],
    "n": 1,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "store": False,
    "tool_choice": "none",
    "tools": [],
}
"""Values that ask for what the service does anyway. They are not reported as ignored."""

_DELIVERY: Final = frozenset({"stream", "stream_options"})
"""Fields that say how the reply is delivered, not what is asked."""


def options_of(body: ChatCompletionRequest, settings: Settings) -> ReplyOptions:
    """Return what the client has chosen.

    Raises:
        RequestProblem: It cannot be honoured.
    """
    stop = tuple(filter(None, body.stop or ())) or None
    return ReplyOptions(_model(body.model, settings), body.temperature, body.top_p, stop, body.seed)


def model_name(body: ChatCompletionRequest, settings: Settings) -> str:
    """Return the name of the model as the client knows it."""
    return body.model or settings.openai_model


def models(settings: Settings) -> list[str]:
    """Return the models that a client may choose, the default one first."""
    task_model = [settings.v1_task_model] if settings.v1_task_model else []
    return list(dict.fromkeys([settings.openai_model, *settings.v1_models, *task_model]))


def _model(name: str | None, settings: Settings) -> str | None:
    if not name or name == settings.openai_model:
        return None
    if name in settings.v1_models:
        return name
    if name == settings.v1_task_model:
        return None
    raise model_not_found(", ".join(models(settings)))


def limit_of(body: ChatCompletionRequest, settings: Settings) -> int | None:
    """Return the limit of the reply that the client asks for; None if it is not lower than the operator's."""
    limits = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None]
    limit = min(limits, default=settings.openai_max_tokens)
    return limit if limit < settings.openai_max_tokens else None


def note_ignored_fields(
    scope: Scope, sent: Mapping[str, Any], body: ChatCompletionRequest, principal: Principal, settings: Settings
) -> None:
    """Name the fields that have no effect although their values ask for one, in a header of the response."""
    if ignored := _ignored_fields(sent, body, principal, settings):
        fields = {*ChatCompletionRequest.model_fields, *_WITHOUT_EFFECT}
        known = (name for name in ignored if name in fields or "." in name)
        unknown = (name for name in ignored if name not in fields and "." not in name)
        found = [header_of(known, ()), header_of(unknown, _HONOURED)]
        scope["state"]["ignored_fields"] = ", ".join(filter(None, found))


def _ignored_fields(
    sent: Mapping[str, Any], body: ChatCompletionRequest, principal: Principal, settings: Settings
) -> list[str]:
    ignored = [
        name
        for name, value in sent.items()
        if name not in _HONOURED and value is not None and _WITHOUT_EFFECT.get(name) != value
    ]
    limits = {"max_tokens": body.max_tokens, "max_completion_tokens": body.max_completion_tokens}
    ignored += [name for name, limit in limits.items() if (limit or 0) > settings.openai_max_tokens]
    users = {"safety_identifier": body.safety_identifier, "user": body.user}
    effective = principal.user_id or body.safety_identifier or body.user
    ignored += [name for name, value in users.items() if value and value != effective]
    if body.stream_options is not None and not body.stream:
        ignored.append("stream_options")
    elif body.stream_options is not None:
        ignored += [f"stream_options.{name}" for name in _asking(body.stream_options.model_extra)]
    if settings.v1_system_messages == "drop" and any(message.role in SYSTEM for message in body.messages):
        ignored.append("messages.system")
    ignored += sorted({f"messages.{name}" for message in body.messages for name in _asking(message.model_extra)})
    return ignored + sorted({f"messages.content.{name}" for name in _ignored_in_parts(sent["messages"])})


def _ignored_in_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the fields that the parts of the messages have besides their text."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            yield from set(_asking(part)) - {"type", part["type"]}


def _asking(fields: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the names of the fields that ask for something: libraries send replies back with many that are empty."""
    return (name for name, value in (fields or {}).items() if value)


def digest_of(sent: Mapping[str, Any]) -> str:
    """Return a digest of everything that a request asks for."""
    asked = {name: value for name, value in sent.items() if name not in _DELIVERY}
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
