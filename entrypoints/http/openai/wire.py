"""The format of OpenAI's Chat Completions API: chunks as server-sent events, or one completion."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from application.ports.live_turns import Batch, End
from domain.conversation import Turn, Usage
from entrypoints.http.openai.errors import stream_error
from entrypoints.http.server_sent import STREAM_HEADERS, escape_line_ends, quoted
from entrypoints.http.wire import Wire

_FINISH_REASONS: Final = frozenset({"stop", "length", "content_filter"})
"""Reasons that may end a reply of text. Clients take others for success, or wait for a call of a tool."""

_MARK: Final = "\0"
"""Stands for the content in a template. JSON has it only escaped."""


class OpenAIWire(Wire):
    """Sends a chunk for the role, one for each delta and one for the finish reason, and `[DONE]`.

    A reply that fails ends with an error, and without `[DONE]`: most clients take any other end for success. With
    `include_usage`, a chunk without choices tells the usage, and all others have `usage: null`.
    """

    keep_alive = b": keep-alive\n"  # without a blank line, as in the native format

    def __init__(self, turn: Turn, model: str, headers: Mapping[str, str], *, include_usage: bool) -> None:
        self._headers = headers
        self._include_usage = include_usage
        self._has_begun = False
        self._common = _common(turn, model, "chat.completion.chunk")
        template = self._chunk({"content": _MARK})
        self._before, self._after = template.split(orjson.dumps(_MARK))

    @property
    def head(self) -> Mapping[str, str]:
        return {**STREAM_HEADERS, **self._headers}

    def encode(self, batch: Batch) -> bytes:
        before, after = self._before, self._after
        events = [before + quoted(delta) + after for delta in batch.deltas]
        if batch.end is not None and batch.end.failure is not None:
            events.append(b"data: %b\n\n" % escape_line_ends(stream_error(batch.end.failure)))
        elif batch.end is not None:
            events.append(self._end(batch.end))
        if events and not self._has_begun and (batch.deltas or batch.end is None or batch.end.failure is None):
            self._has_begun = True
            events.insert(0, self._chunk({"role": "assistant", "content": "", "refusal": None}))
        return b"".join(events)

    def _end(self, end: End) -> bytes:
        events = self._chunk({}, finish_reason(end))
        if self._include_usage:
            events += _event(self._common | {"choices": [], "usage": usage_view(end.usage)})
        return events + b"data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return _event(self._common | {"choices": [choice]} | usage)


def completion(turn: Turn, model: str, reply: str, end: End) -> dict[str, Any]:
    """Return a whole reply."""
    message = {"role": "assistant", "content": reply, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(end)}
    return _common(turn, model, "chat.completion") | {"choices": [choice], "usage": usage_view(end.usage)}


def finish_reason(end: End) -> str:
    """Return why the model has stopped, as one of the reasons that clients know."""
    return end.finish_reason if end.finish_reason in _FINISH_REASONS else "stop"


def usage_view(usage: Usage | None) -> dict[str, int] | None:
    if usage is None:
        return None
    prompt, reply = usage.prompt_tokens, usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


def _common(turn: Turn, model: str, kind: str) -> dict[str, Any]:
    created = int(turn.started_at.timestamp())
    return {"id": f"chatcmpl-{turn.public_id}", "object": kind, "created": created, "model": model}


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)
