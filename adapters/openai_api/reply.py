"""A reply from the chunks of Chat Completions."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from sys import intern
from typing import Any, Final, Self

import orjson

from adapters.openai_api import errors
from adapters.openai_api.connection import Answer
from adapters.openai_api.patience import Patience
from adapters.openai_api.stream import EventDecoder
from application.ports.llm import LLMError, LLMInvalid, LLMTruncated, Reply
from domain.conversation import Usage
from domain.errors import OutputLimit

LINGER: Final = 0.5
"""Seconds that a finished reply waits for the usage and `[DONE]`."""

LINGER_DONE: Final = 0.1
"""Seconds that follow `[DONE]`: a connection that is read to its end can be used again."""

READ: Final = 16 * 1024
"""Bytes taken at a time. Less than a line may have, so that no read both completes an event and ends the reply."""

_BROKEN: Final = re.compile("[\0\ud800-\udfff]")


class OpenAIReply(Reply):
    """The texts of the first choice, network read by network read. Used as a context, which ends its patience."""

    def __init__(self, answer: Answer, idle_timeout: float) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self._answer = answer
        self._idle_timeout = idle_timeout
        self._patience = Patience(answer, idle_timeout)
        self._decoder = EventDecoder()
        self._failure: LLMError | OutputLimit | None = None
        """What the last read ended in, behind its texts."""
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.end()

    def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        return self

    async def __anext__(self) -> Sequence[str]:
        while not self.finish_reason:
            if self._failure is not None:
                raise self._failure
            try:
                read = await self._answer.read(READ)
            except errors.FOREIGN as error:
                self._failure = errors.of_exception(error, streaming=True)
                continue
            self._patience.allow(self._idle_timeout)
            texts = self._decode(read)
            if texts:
                return texts
        await self._linger()
        raise StopAsyncIteration

    async def _linger(self) -> None:
        """Read on to the end of a reply that has finished. Nothing that goes wrong from here on matters any more."""
        if self._answer.at_end:
            return
        self._patience.allow(LINGER)
        with suppress(*errors.FOREIGN):
            while self._failure is None:
                if self._done:
                    self._patience.allow(LINGER_DONE)
                self._decode(await self._answer.read(READ))

    def _decode(self, read: bytes) -> list[str]:
        texts: list[str] = []
        try:
            if not read:
                raise LLMTruncated
            for name, data in self._decoder.feed(read):
                if data == b"[DONE]":
                    self._done = True
                    if not self.finish_reason:
                        raise LLMTruncated
                elif not self._done:
                    self._take(name, _parsed(data), texts)
        except (LLMError, OutputLimit) as failure:
            self._failure = failure
        except (AttributeError, TypeError):
            self._failure = LLMInvalid("The model's service sent a chunk of an unknown shape.")
        return texts

    def _take(self, name: bytes, chunk: dict[str, Any], texts: list[str]) -> None:
        error = chunk.get("error")
        if error or name == b"error":
            raise errors.of_event(error or chunk)
        for choice in chunk.get("choices") or ():
            if choice.get("index") or self.finish_reason:
                continue
            delta = choice.get("delta")
            text = delta.get("content") if delta else None
            if text:
                if not text.isascii() or "\0" in text:
                    text = _BROKEN.sub("\ufffd", text)
                # Models speak in tokens of one vocabulary: kept once each, a text costs a pointer and not 60 bytes.
                texts.append(intern(text))
            finish = choice.get("finish_reason")
            if finish:
                self.finish_reason = _BROKEN.sub("\ufffd", finish)
        match chunk.get("usage"):
            case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
                self.usage = Usage(prompt, completion)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    with suppress(ValueError, RecursionError):
        return json.loads(data.decode(errors="replace"))  # takes escapes of lone surrogates, which some servers send
    raise LLMInvalid("The model's service sent a chunk that is not JSON.")
