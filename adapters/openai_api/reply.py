"""A reply that is being read from a response."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Self

import aiohttp

from adapters.openai_api import errors
from adapters.openai_api.body import BodyDecoder, Decoder
from adapters.openai_api.chunks import ChunkReader, EndOfReply
from adapters.openai_api.delta_cache import DeltaCache
from adapters.openai_api.idle_timeout import IdleTimeout
from application.ports.llm import LLMContentRefused, LLMError, LLMInvalid, LLMTruncated, Reply
from domain.conversation import Usage
from domain.errors import OutputLimit

_READ_SIZE: Final = 16 * 1024
"""Bytes per read: less than an event may have, so that no read both completes an event and exceeds the limit."""

_READS_AFTER_END: Final = 8
"""Reads after the end of a reply, for the end of the body."""


class OpenAIReply(Reply):
    """Yields the deltas of the first choice, those of one network read at a time. Leaving its context stops its timer.

    Args:
        cache: Holds short deltas, and is shared by all replies.
        excerpt: Returns the beginning of a text of the service as it may be logged.
        keep_reasoning: Whether reasoning is part of the reply.
        media_type: That of the body. It decides only what a body without any event means.
        final_after: Seconds without more text after which a finish reason is final. Some services send one with each
            chunk, so that only the last one counts.
        eof_timeout: Seconds from `[DONE]` to the end of the body. A connection can be reused once its body was read.
    """

    def __init__(
        self,
        content: aiohttp.StreamReader,
        idle_timeout: float,
        cache: DeltaCache,
        *,
        excerpt: Callable[[str], Awaitable[str]],
        keep_reasoning: bool = False,
        media_type: str = "text/event-stream",
        final_after: float = 0.5,
        eof_timeout: float = 0.1,
    ) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self._content = content
        self._idle_timeout = idle_timeout
        self._final_after = final_after
        self._eof_timeout = eof_timeout
        self._media_type = media_type
        self._timer = IdleTimeout(content, idle_timeout)
        self._body = BodyDecoder()
        self._decoder: Decoder = self._body
        self._chunks = ChunkReader(cache, keep_reasoning=keep_reasoning)
        self._excerpt = excerpt
        self.notes = self._chunks.notes
        self._failure: LLMError | OutputLimit | None = None
        """Raised once the deltas that came before it have been taken."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        return self

    async def __anext__(self) -> Sequence[str]:
        chunks = self._chunks
        while not self.finish_reason:
            if self._failure is not None:
                raise self._failure
            deltas: list[str] = []
            had_reason, late_texts = chunks.reason is not None, chunks.late_texts
            try:
                data = await self._content.read(_READ_SIZE)
            except errors.FOREIGN_ERRORS as error:
                self._stop_reading(error, deltas)
            else:
                self._timer.bytes_read += len(data)
                self._decode(data, deltas)
            if chunks.reason is None:
                self._timer.restart(self._idle_timeout)
            elif not had_reason or late_texts != chunks.late_texts:
                self._timer.restart(self._final_after)
            self.usage = chunks.usage
            if deltas:
                if not chunks.has_text:
                    chunks.has_text = True
                    self._decoder = self._body.decoder or self._body
                return deltas
        await self._read_to_end()
        if chunks.unknown_reason:
            chunks.notes.insert(0, f"finish reason {await self._excerpt(chunks.unknown_reason)}")
        raise StopAsyncIteration

    def _decode(self, data: bytes, deltas: list[str]) -> None:
        if not data and self._body.is_json:
            self._chunks.status = 200
        try:
            for name, event in self._decoder.feed(data) if data else self._decoder.finish():
                self._chunks.take(name, event, deltas)
        except EndOfReply:
            self._end(deltas, marked=True)
        except (LLMInvalid, OutputLimit) as failure:
            self._break_off(failure, deltas)
        except LLMError as failure:
            self._take_error(failure, deltas)
        except (AttributeError, LookupError, TypeError, ValueError):
            self._break_off(LLMInvalid("The model's service sent a chunk of an unknown shape."), deltas)
        else:
            if not data:
                self._end(deltas, marked=False)

    def _stop_reading(self, error: Exception, deltas: list[str]) -> None:
        if self._chunks.reason is not None and isinstance(error, aiohttp.ServerTimeoutError):
            self._end(deltas, marked=True)
        else:
            self._break_off(errors.from_exception(error, streaming=True), deltas)

    def _end(self, deltas: list[str], *, marked: bool) -> None:
        """End the reply. `marked`: the service marked its end, with or without a finish reason."""
        try:
            self.finish_reason = self._chunks.end(deltas, marked=marked)
        except LLMTruncated as failure:
            self._fail(failure if self._chunks.taken else self._without_events(), deltas)
        except LLMError as failure:
            self._fail(failure, deltas)

    def _without_events(self) -> LLMError:
        if self._media_type != "text/event-stream":  # e.g. the greeting of another server
            return errors.wrong_api(None)
        return LLMTruncated("The model's service sent no reply.")

    def _break_off(self, failure: LLMError | OutputLimit, deltas: list[str]) -> None:
        """Fail, unless the reply was complete: what breaks then does not matter any more."""
        if self._chunks.reason is None or self._chunks.late_texts:
            self._fail(failure, deltas)
        else:
            self._end(deltas, marked=True)

    def _take_error(self, failure: LLMError, deltas: list[str]) -> None:
        """Fail, unless the reply was complete and the error does not withdraw it. Then it is only noted."""
        if self._chunks.is_complete and not isinstance(failure, LLMContentRefused):
            self._chunks.notes.append(f"{failure.code} after the finish reason")
            self._end(deltas, marked=True)
        else:
            self._fail(failure, deltas)

    def _fail(self, failure: LLMError | OutputLimit, deltas: list[str]) -> None:
        self._chunks.flush(deltas)
        self._failure = failure

    async def _read_to_end(self) -> None:
        """Read the end of the body. The reply is complete, so no error matters any more."""
        if self._content.at_eof():
            return
        self._timer.restart(self._eof_timeout)
        with suppress(*errors.FOREIGN_ERRORS):
            for _ in range(_READS_AFTER_END):
                data = await self._content.read(_READ_SIZE)
                if not data:
                    return
                self._timer.bytes_read += len(data)
