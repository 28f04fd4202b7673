"""A reply from the chunks of Chat Completions."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from adapters.openai_api import errors
from adapters.openai_api.stream import EventDecoder
from application.ports.llm import LLMError, LLMInvalid, LLMTruncated, Reply, Usage
from domain.errors import OutputLimit

LINGER: Final = 0.5
"""Seconds that a finished reply waits for the usage and `[DONE]`."""

LINGER_DONE: Final = 0.1
"""Seconds that follow `[DONE]`: a connection that is read to its end can be used again."""

_BROKEN: Final = re.compile("[\0\ud800-\udfff]")


class OpenAIReply(Reply):
    """The texts of the first choice, network read by network read."""

    def __init__(self, reads: AsyncIterator[bytes]) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self._reads = reads
        self._decoder = EventDecoder()
        self._failure: LLMError | OutputLimit | None = None
        """What the last read ended in, behind its texts."""
        self._done = False

    def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        return self

    async def __anext__(self) -> Sequence[str]:
        while not self.finish_reason:
            if self._failure is not None:
                raise self._failure
            try:
                read = await anext(self._reads)
            except StopAsyncIteration:
                self._failure = LLMTruncated()
            except errors.FOREIGN as error:
                self._failure = errors.of_exception(error, streaming=True)
            else:
                texts = self._decode(read)
                if texts:
                    return texts
        await self._linger()
        raise StopAsyncIteration

    async def _linger(self) -> None:
        """Read on to the end of a reply that has finished. Nothing that goes wrong from here on matters any more."""
        with suppress(StopAsyncIteration, *errors.FOREIGN):
            async with asyncio.timeout(LINGER) as limit:
                while self._failure is None:
                    if self._done:
                        limit.reschedule(asyncio.get_running_loop().time() + LINGER_DONE)
                    self._decode(await anext(self._reads))

    def _decode(self, read: bytes) -> list[str]:
        texts: list[str] = []
        try:
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
                texts.append(text if text.isascii() and "\0" not in text else _BROKEN.sub("\ufffd", text))
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
