"""Decode the body of a response, whatever its content type says."""

from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from adapters.openai_api import errors
from adapters.openai_api.json_value import load_json
from adapters.openai_api.stream import Event, EventDecoder
from domain.errors import OutputLimit


class Decoder(Protocol):
    """Splits a body into events, however its bytes are split."""

    def feed(self, read: bytes) -> Sequence[Event]:
        """Return the events that `read` completes."""
        ...

    def finish(self) -> Sequence[Event]:
        """Return what is left at the end of the body."""
        ...


class JsonDecoder(Decoder):
    """A response that is not streamed: one JSON value, or one per line. It is decoded when it is complete."""

    def __init__(self, max_bytes: int = 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._body = bytearray()

    def feed(self, read: bytes) -> Sequence[Event]:
        self._body += read
        if len(self._body) > self._max_bytes:
            raise OutputLimit(f"The model's service sent a response of more than {self._max_bytes} bytes.")
        return ()

    def finish(self) -> Sequence[Event]:
        body = bytes(self._body)
        with suppress(ValueError):
            load_json(body)
            return [(b"", body)]
        return [(b"", line) for line in body.splitlines()]


class BodyDecoder(Decoder):
    """Decodes a body as events or as JSON, depending on its first character.

    Services send events with any content type, and JSON with that of events. `decoder` is set once the kind is known;
    from then on it may be used directly.

    Raises:
        LLMWrongAPI: The body is markup.
    """

    def __init__(self) -> None:
        self.decoder: Decoder | None = None
        self._start = b""

    @property
    def is_json(self) -> bool:
        """Whether the response is not streamed."""
        return isinstance(self.decoder, JsonDecoder)

    def feed(self, read: bytes) -> Sequence[Event]:
        if self.decoder is not None:
            return self.decoder.feed(read)
        self._start = (self._start + read).lstrip()  # blank lines mean nothing
        if BOM_UTF8.startswith(self._start):
            return ()
        start, self._start = self._start, b""
        text = start.removeprefix(BOM_UTF8).lstrip()
        match text[:1]:
            case b"<":
                raise errors.wrong_api(text)
            case b"{" | b"[":
                self.decoder = JsonDecoder()
                return self.decoder.feed(text)
            case _:
                self.decoder = EventDecoder()
                return self.decoder.feed(start)

    def finish(self) -> Sequence[Event]:
        return () if self.decoder is None else self.decoder.finish()
