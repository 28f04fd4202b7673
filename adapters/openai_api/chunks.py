"""The deltas, the finish reason and the usage in the chunks of Chat Completions."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from adapters.openai_api import errors
from adapters.openai_api.delta_cache import DeltaCache
from adapters.openai_api.finish_reasons import FAILED, UNKNOWN, map_reason
from adapters.openai_api.json_value import load_json
from adapters.openai_api.message_text import reasoning_of, text_of
from adapters.openai_api.numbers import parse_count, parse_number
from adapters.openai_api.stream import is_done
from adapters.openai_api.think_block import ThinkBlockFilter
from application.ports.llm import LLMFailed, LLMInvalid, LLMTruncated
from domain.conversation import Usage

_NOT_TEXT: Final = re.compile("[\0\ud800-\udfff]")
_ERROR_KEYS: Final = frozenset({"message", "detail", "details", "msg", "error_message", "error_msg", "errors"})
_NO_INDEX: Final = -1
_INVALID: Final = object()


class EndOfReply(Exception):
    """The service marked the end of the reply by `[DONE]`."""


class ChunkReader:
    """Reads the chunks of one reply, in the dialects of all services.

    Args:
        keep_reasoning: Whether reasoning is part of the reply.
    """

    def __init__(self, cache: DeltaCache, *, keep_reasoning: bool) -> None:
        self.reason: object = None
        """The service's last finish reason, as sent."""
        self.late_texts = 0
        """Number of texts after a finish reason. If there are any, no reason of the service marks the end by itself."""
        self.usage: Usage | None = None
        self.notes: list[str] = []
        self.unknown_reason = ""
        """The finish reason if it is unknown, as sent: not to be logged as it is."""
        self.has_text = False
        """Set by the caller once deltas were handed on."""
        self.status: int | None = None
        """Set by the caller to the status of the response if that is not streamed: its errors are those of the call."""
        self._cache = cache
        self._keep_reasoning = keep_reasoning
        self._think_block = None if keep_reasoning else ThinkBlockFilter()
        self._index: object = _NO_INDEX
        self._highest_index = 0.0
        self._has_reasoning = False
        self.taken = False
        """A chunk was read."""
        self._other_api: Mapping[str, Any] | None = None
        """A chunk that is not one of Chat Completions."""

    def take(self, name: bytes, event: bytes, deltas: list[str], chunk: Any = None) -> None:
        """Read the chunk in an event, and add its text to `deltas`. `chunk`: the event is already parsed.

        Raises:
            EndOfReply: It is the mark of the end.
            LLMInvalid: The event holds no chunk.
            LLMError: It holds an error of the service.
        """
        if chunk is None:
            try:
                chunk = orjson.loads(event)
            except orjson.JSONDecodeError:
                chunk = _INVALID
        if chunk.__class__ is not dict:
            self._take_unusual(name, event, chunk, deltas)
            return
        error = chunk.get("error")
        if error or name == b"error":
            self._take_failure(chunk)
            raise errors.from_event(chunk, self.status)
        choices = chunk.get("choices")
        if choices:
            choice = choices[0] if len(choices) == 1 else _first(choices)
            index = choice.get("index")
            if index == self._index or self._is_first_choice(index):
                delta = choice.get("delta")
                text = delta.get("content") if delta else None
                if not text or self._keep_reasoning or text.__class__ is not str:
                    text = self._unusual_text(choice, delta or {}, whole=not (self.has_text or deltas))
                if text:
                    if self.reason is not None:
                        self.late_texts += 1
                    if not text.isascii() or "\0" in text:
                        text = _NOT_TEXT.sub("\ufffd", text)
                    if self._think_block is None or (text := self._remove_reasoning(self._think_block, text)):
                        deltas.append(self._cache[text])
                reason = choice.get("finish_reason")
                if reason:
                    self.reason = reason
        else:
            self.taken = True
            self._take_chunk_without_choices(chunk)
        usage = chunk.get("usage")
        if usage and isinstance(usage, dict):
            self._take_usage(usage)

    def _take_unusual(self, name: bytes, event: bytes, value: object, deltas: list[str]) -> None:
        """Take an event that is not a JSON object. One without data, which keeps the connection alive, is no chunk."""
        if value is _INVALID:
            if is_done(event) and name != b"error":
                raise EndOfReply
            value = _parse(event)
        chunks = value if isinstance(value, list) else [value]
        if all(isinstance(chunk, dict) for chunk in chunks):
            for chunk in chunks:
                self.take(name, event, deltas, chunk)
        elif name == b"error":
            raise errors.from_event(event.decode(errors="replace"), self.status)
        elif value is _INVALID:
            raise LLMInvalid("The model's service sent a chunk that is not JSON.")
        elif value is not None:
            raise TypeError("neither an object nor a list of them")

    @property
    def is_complete(self) -> bool:
        """Whether the reply has a finish reason that is known and no failure, and no text came after it."""
        return not self.late_texts and map_reason(self.reason) not in (FAILED, UNKNOWN)

    def end(self, deltas: list[str], *, marked: bool) -> str:
        """Return the finish reason, now that nothing follows. `marked`: the service marked the end by other means.

        Raises:
            LLMFailed: The service could not finish the reply.
            LLMTruncated: The end is not marked in any way.
            LLMWrongAPI: There was no reply.
        """
        if self.reason is None:
            if self._other_api is not None and self._index is _NO_INDEX:
                raise errors.wrong_api(self._other_api)
            if not marked:
                raise LLMTruncated
            self.notes.append("no finish reason")
        reason = UNKNOWN if self.reason is None else map_reason(self.reason)
        if reason == FAILED:
            failure = LLMFailed("The model's service could not finish the reply.")
            failure.diagnosis = {"finish_reason": str(self.reason)}
            raise failure from None
        if reason == UNKNOWN and self.reason is not None:
            self.unknown_reason = str(self.reason)
        self.flush(deltas)
        removed = self._think_block is not None and self._think_block.removed
        if not (self.has_text or deltas):
            self.notes.append("only reasoning" if self._has_reasoning or removed else "no text")
        return reason

    def flush(self, deltas: list[str]) -> None:
        """Add the text that was held back to `deltas`."""
        if self._think_block is not None and (text := self._think_block.finish()):
            deltas.append(text)

    def _is_first_choice(self, index: object) -> bool:
        """Tell the first choice from others. Some services count the tokens of the only one in its index."""
        if self._index is _NO_INDEX:
            self.taken = True
            self._index = index
            self._highest_index = parse_number(index) or 0
            return True
        number = parse_number(index)
        if not number:
            return True
        counts = number > self._highest_index
        self._highest_index = number if counts else float("inf")
        return counts or number == parse_number(self._index)

    def _take_failure(self, chunk: Mapping[str, Any]) -> None:
        """Take the finish reason in the chunk of an error if it means a failure. It replaces an earlier one."""
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and map_reason(choice.get("finish_reason")) == FAILED:
                self.reason = choice["finish_reason"]

    def _unusual_text(self, choice: Mapping[str, Any], delta: Mapping[str, Any], *, whole: bool) -> str:
        """Return the text of a choice that is not plain content. `whole`: it may be that of the complete reply."""
        if error := choice.get("error"):
            self._take_failure({"choices": [choice]})
            raise errors.from_event(error, self.status)
        text, reasoning = text_of(delta) or text_of({"content": choice.get("text")}), reasoning_of(delta)
        message = choice.get("message")
        if message and whole and not text:
            text, reasoning = text_of(message), reasoning or reasoning_of(message)
        if reasoning:
            self._has_reasoning = True
            if self.reason is not None and not text and not self._keep_reasoning:
                self.late_texts += 1
        return reasoning + text if self._keep_reasoning else text

    def _remove_reasoning(self, block: ThinkBlockFilter, text: str) -> str:
        text = block.feed(text)
        if block.passed:
            self._has_reasoning |= block.removed
            self._think_block = None
        return text

    def _take_chunk_without_choices(self, chunk: Mapping[str, Any]) -> None:
        if "error" in (chunk.get("object"), chunk.get("type")) or any(
            isinstance(value, (str, list)) and value for key, value in chunk.items() if key.lower() in _ERROR_KEYS
        ):
            raise errors.from_event(chunk, self.status)
        if "choices" not in chunk:
            self._other_api = chunk

    def _take_usage(self, usage: Mapping[str, Any]) -> None:
        prompt, completion = parse_count(usage.get("prompt_tokens")), parse_count(usage.get("completion_tokens"))
        if prompt is not None and completion is not None:
            self.usage = Usage(prompt, completion)
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict) and parse_count(details.get("reasoning_tokens")):
            self._has_reasoning = True


def _parse(event: bytes) -> Any:
    """Parse what `orjson` rejects."""
    if not event.strip():
        return None
    try:
        return load_json(event)
    except ValueError:
        return _INVALID


def _first(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return min(choices, key=lambda choice: parse_number(choice.get("index")) or 0)
