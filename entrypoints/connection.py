"""A client's connection to `smart-chatbot serve`."""

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from itertools import chain
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from entrypoints.http.refusal import Refusal
from entrypoints.http.request_problems import (
    RequestProblem,
    headers_too_large,
    malformed_request,
    request_timeout,
    uri_too_long,
)
from entrypoints.refusal_queue import RefusalQueue
from entrypoints.request_head import head_without_offer, require_unambiguous
from entrypoints.unchunked_response import without_chunks

_REST_OF_REQUEST_LINE: Final = 40
"""Bytes: more than those of a method, a version and the spaces around a URL."""


class _Reading(Enum):
    """What is read at the moment."""

    NOTHING = 0  # between two requests
    HEAD = 1
    BODY = 2


class Connection(HttpToolsProtocol):
    """Uvicorn's connection with limits on what a client may send, and how slowly, and without some of its defects.

    - A head has to be complete `head_timeout` seconds after the connection was accepted, after its first byte or after
      the response before it, whichever is last; a body `body_timeout` seconds after its head.
    - Heads are limited in size, also while they are incomplete, and must not be ambiguous.
    - A request that breaks a rule is answered with a problem, after the responses before it and as soon as `refusals`
      calls for it; then the connection is closed. If its response has begun, that one is completed instead. A
      connection without any request is closed silently. Uvicorn writes its answer into the middle of a response.
    - Uvicorn stops reading while a pipelined request waits for the response before it, and when the connection is lost
      it tells only the latest request. The model would generate a reply that no client reads.
    - A request that offers another protocol, as some HTTP/2 clients do (`Upgrade: h2c`), loses its body, and the
      requests behind it. A server may ignore the offer (https://www.rfc-editor.org/rfc/rfc9110#section-7.8), so such a
      request is parsed again without it.
    - A client that speaks HTTP/1.0 gets chunks from uvicorn, which it does not know
      (https://www.rfc-editor.org/rfc/rfc9112#section-6.1). Here the end of the connection ends its response.
    """

    max_head_bytes = 32 * 1024
    """Of a request line and its headers. Also bounds what surrounds a body: extensions of chunks, and trailers."""

    max_headers = 100

    max_pipelined = 100
    """Requests that may wait for the response before them."""

    max_queued_bytes = 2**20
    """Bytes received behind a response in progress, or discarded behind a refused request. Beyond it nothing is read
    until the response ends, so that a disconnect is noticed only when something is sent."""

    def __init__(
        self,
        *args: Any,
        head_timeout: float = 10,
        body_timeout: float = 30,
        refusals: RefusalQueue,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._refusals = refusals
        self._head_timeout = head_timeout
        self._body_timeout = body_timeout
        self._reading = _Reading.NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._bytes_without_content = 0
        """Given to the parser since it last completed a head or returned a part of a body."""
        self._responding: RequestResponseCycle | None = None
        self._begun_by: Callable[[], None] | None = None
        """Calls the application with the request whose head is in the data that is being parsed."""
        self._is_parsing_head = False
        self._queued_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._start_timer(self._head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        cycle = self._responding
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if not self._refused:  # else discarded: closing a connection with unread data would discard the answer, too
            self._parse(data)
            self._call_application()
        if self.pipeline or self._refused:
            self._queued_bytes += len(data)
            if self._queued_bytes <= self.max_queued_bytes:
                self.flow.resume_reading()
            else:  # uvicorn itself pauses only at the end of a request's headers, and if its body is large
                self.flow.pause_reading()
        if not self._refused:
            self._await_rest()

    def _parse(self, data: bytes) -> None:
        while data:
            self._bytes_without_content += len(data)
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as stop:  # the parser has stopped behind the head
                version = self.parser.get_http_version().encode()
                start = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)
                data = head_without_offer(start, self.headers) + data[stop.args[0] :]
                self._renew_parser()
            except httptools.HttpParserError as error:
                cause = error.__context__
                self._refuse(cause if isinstance(cause, RequestProblem) else malformed_request())
                return
        if self._bytes_without_content > self.max_head_bytes:
            in_body = self._reading is _Reading.BODY
            self._refuse(malformed_request() if in_body else self._head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = _Reading.HEAD
        self._stop_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == self.max_headers:
            raise self._head_too_large()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":  # the parser would stop behind it, too
            raise malformed_request("This is not a proxy: CONNECT is not supported.")
        if self.parser.should_upgrade():
            return
        # With a colon, a space and a line end around each header.
        if sum(map(len, chain((self.url,), *self.headers))) + 4 * len(self.headers) > self.max_head_bytes:
            raise self._head_too_large()
        require_unambiguous(self.parser.get_http_version(), self.headers)
        if len(self.pipeline) >= self.max_pipelined:
            raise malformed_request("Too many requests wait for the response before them.")
        self._is_parsing_head = True
        try:
            super().on_headers_complete()
        finally:
            self._is_parsing_head = False
        self.headers = []  # of the request that has begun; uvicorn would add trailers to them
        self._reading = _Reading.BODY
        self._bytes_without_content = 0
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        self._bytes_without_content = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._reading = _Reading.NOTHING
        self._bytes_without_content = 0
        self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reading is _Reading.HEAD and not self._refused:
            self._await_rest()

    def _head_too_large(self) -> RequestProblem:
        if self._reading is _Reading.HEAD and len(self.url) + _REST_OF_REQUEST_LINE > self.max_head_bytes:
            return uri_too_long(self.max_head_bytes)
        return headers_too_large(self.max_head_bytes, self.max_headers)

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _await_rest(self) -> None:
        """Limit the time until the request that is being read is complete, unless it is limited already."""
        if self._timer is not None or self.transport.is_closing():
            return
        if self._reading is _Reading.BODY:
            self._start_timer(self._body_timeout)
        elif not self._is_responding():
            if self._bytes_without_content or self._reading is _Reading.HEAD:
                self._start_timer(self._head_timeout)
            else:  # the request has ended after its response, when uvicorn has stopped its own timer
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # the service is late, not the client
            self._await_rest()
        elif self._reading is _Reading.NOTHING:
            self.transport.close()
        else:
            self._refuse(request_timeout())

    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, reason: RequestProblem) -> None:
        """Read no further requests. Answer the present one with `reason`, unless its response has begun."""
        self._refused = True
        self._stop_timer()
        if self._reading is not _Reading.BODY:
            self._refusals.add(partial(self._answer, reason))
        elif self.cycle.response_complete:
            self.transport.close()
        else:  # the application answers: it waits for the body, or has not been called yet, or ignores the body
            self.cycle.keep_alive = False
            self.cycle.scope["state"]["refusal"] = reason
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _call_application(self) -> None:
        """Call the application with a request that has begun; by way of `refusals` if its body is refused already."""
        begin, self._begun_by = self._begun_by, None
        if begin is None:
            return
        if self._refused and self._reading is _Reading.BODY:
            self._refusals.add(partial(self._begin_refused, begin))
        else:
            begin()

    def _begin_refused(self, begin: Callable[[], None]) -> bool:
        if self.transport.is_closing():
            return False
        begin()
        return True

    def _answer(self, reason: RequestProblem) -> bool:
        """Respond with `reason` after the responses in progress, and close the connection, unless it is closed."""
        if self.transport.is_closing():
            return False
        refusal: Any = Refusal(reason)
        is_responding = self._is_responding()
        self.cycle = RequestResponseCycle(
            scope=refusal.scope(self.client),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        if is_responding:
            self.pipeline.appendleft((self.cycle, refusal))
        else:
            self._start_asgi_task(self.cycle, refusal)
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._responding = cycle
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(cycle, app)
        if not self.pipeline:
            self._queued_bytes = 0
        if self._is_parsing_head:
            self._begun_by = partial(super()._start_asgi_task, cycle, app)
        else:
            super()._start_asgi_task(cycle, app)
