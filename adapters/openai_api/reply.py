"""A reply from the chunks of Chat Completions."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from sys import intern
from typing import Any, Final, Self

import aiohttp
import orjson

from adapters.openai_api import errors
from adapters.openai_api.idle_timeout import IdleTimeout
from adapters.openai_api.stream import EventDecoder
from application.ports.llm import LLMError, LLMInvalid, LLMTruncated, Reply
from domain.conversation import Usage
from domain.errors import OutputLimit

_READ_SIZE: Final = 16 * 1024
"""Bytes per read: less than an event may have, so that no read both completes an event and exceeds the limit."""

_NOT_TEXT: Final = re.compile("[\0\ud800-\udfff]")


class OpenAIReply(Reply):
    """Yields the deltas of the first choice, those of one network read at a time. Leaving its context stops its timer.

    Args:
        usage_timeout: Seconds that a finished reply waits for the usage and `[DONE]`.
        eof_timeout: Seconds from `[DONE]` to the end of the body. A connection can be reused once its body was read.
    """

    def __init__(
        self,
        content: aiohttp.StreamReader,
        idle_timeout: float,
        *,
        usage_timeout: float = 0.5,
        eof_timeout: float = 0.1,
    ) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self._content = content
        self._idle_timeout = idle_timeout
        self._usage_timeout = usage_timeout
        self._eof_timeout = eof_timeout
        self._timer = IdleTimeout(content, idle_timeout)
        self._decoder = EventDecoder()
        self._failure: LLMError | OutputLimit | None = None
        """Raised once the deltas that came before it have been taken."""
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        return self

    async def __anext__(self) -> Sequence[str]:
        while not self.finish_reason:
            if self._failure is not None:
                raise self._failure
            try:
                data = await self._content.read(_READ_SIZE)
            except errors.FOREIGN_ERRORS as error:
                self._failure = errors.from_exception(error, streaming=True)
                continue
            self._timer.bytes_read += len(data)
            self._timer.restart(self._idle_timeout)
            deltas = self._decode(data)
            if deltas:
                return deltas
        await self._read_to_end()
        raise StopAsyncIteration

    async def _read_to_end(self) -> None:
        """Read the usage and the end of the body. The reply is complete, so no error matters any more."""
        if self._content.at_eof():
            return
        done = self._done
        self._timer.restart(self._eof_timeout if done else self._usage_timeout)
        with suppress(*errors.FOREIGN_ERRORS):
            while self._failure is None:
                data = await self._content.read(_READ_SIZE)
                self._timer.bytes_read += len(data)
                self._decode(data)
                if self._done and not done:
                    done = True
                    self._timer.restart(self._eof_timeout)

    def _decode(self, data: bytes) -> list[str]:
        deltas: list[str] = []
        try:
            if not data:
                raise LLMTruncated
            for name, event in self._decoder.feed(data):
                if event == b"[DONE]":
                    self._done = True
                    if not self.finish_reason:
                        raise LLMTruncated
                elif not self._done:
                    self._take(name, _parse(event), deltas)
        except (LLMError, OutputLimit) as failure:
            self._failure = failure
        except (AttributeError, TypeError):
            self._failure = LLMInvalid("The model's service sent a chunk of an unknown shape.")
        return deltas

    def _take(self, name: bytes, chunk: dict[str, Any], deltas: list[str]) -> None:
        error = chunk.get("error")
        if error or name == b"error":
            raise errors.from_event(error or chunk)
        for choice in chunk.get("choices") or ():
            if choice.get("index") or self.finish_reason:
                continue
            delta = choice.get("delta")
            text = delta.get("content") if delta else None
            if text:
                if not text.isascii() or "\0" in text:
                    text = _NOT_TEXT.sub("\ufffd", text)
                # Models use the tokens of one vocabulary: an interned delta costs a pointer instead of 60 bytes.
                deltas.append(intern(text))
            finish = choice.get("finish_reason")
            if finish:
                self.finish_reason = _NOT_TEXT.sub("\ufffd", finish)
        match chunk.get("usage"):
            case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
                self.usage = Usage(prompt, completion)


def _parse(event: bytes) -> Any:
    try:
        return orjson.loads(event)
    except orjson.JSONDecodeError:
        pass
    with suppress(ValueError, RecursionError):
        return json.loads(event.decode(errors="replace"))  # accepts escaped lone surrogates, which some servers send
    raise LLMInvalid("The model's service sent a chunk that is not JSON.")
