"""A client's connection to `smart-chatbot serve`."""

import sys
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_OF_UPGRADES: Final = frozenset({b"upgrade", b"http2-settings"})
"""Header fields, and options of `Connection`, by which a client offers another protocol."""


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, without two of its defects.

    - Uvicorn stops reading while a pipelined request waits for the response before it, and when the connection is lost
      it tells only the latest request. The model would generate a reply that no client reads.
    - A request that offers another protocol, as some HTTP/2 clients do (`Upgrade: h2c`), loses its body, and the
      requests behind it. A server may ignore the offer (https://www.rfc-editor.org/rfc/rfc9110#section-7.8), so such a
      request is parsed again without it.
    """

    max_queued_bytes = 2**20
    """Bytes received behind a response in progress. Beyond it nothing is read until the response ends, so that a
    disconnect is noticed only when something is sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._responding: RequestResponseCycle | None = None
        self._queued_bytes = 0
        self._unparsed = b""

    def data_received(self, data: bytes) -> None:
        received = len(data)
        self._unparsed = data
        while self._unparsed:
            self._data, self._unparsed = self._unparsed, b""
            super().data_received(self._data)
        if self.pipeline:
            self._queued_bytes += received
            if self._queued_bytes <= self.max_queued_bytes:
                self.flow.resume_reading()
            else:  # uvicorn itself pauses only at the end of a request's headers, and if its body is large
                self.flow.pause_reading()

    def on_headers_complete(self) -> None:
        if not self._offers_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._offers_upgrade():
            super().on_message_complete()

    def _offers_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """Have the request parsed again, without its offer. The parser has stopped behind its head."""
        stop = sys.exc_info()[1]
        assert isinstance(stop, httptools.HttpParserUpgrade)
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES and (value or name != b"connection"):
                lines.append(b"%s: %s" % (name, value))
        self._unparsed = b"\r\n".join([*lines, b"\r\n"]) + self._data[stop.args[0] :]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        cycle = self._responding
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._responding = cycle
        if not self.pipeline:
            self._queued_bytes = 0
        super()._start_asgi_task(cycle, app)
