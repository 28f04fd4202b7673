"""One HTTP/1.1 connection to a model's service: no layer between the network and whoever reads."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

import httptools

BUFFER: Final = 64 * 1024
"""Bytes of a body that wait for their reader before the service is made to wait."""

MAX_HEAD: Final = 64 * 1024
"""Bytes that may come without any of them being of a body."""


class Unreadable(Exception):
    """What came is no answer in HTTP."""


class Answer:
    """An answer to one request. Its head has come; its body comes as it is read."""

    def __init__(self, connection: "Connection") -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        """The names in lower case."""
        self.complete = False
        """All of the body has come."""
        self._connection = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: str) -> str:
        """The first value under that name; empty where there is none."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def at_end(self) -> bool:
        """All of the body has been read."""
        return self.complete and not self._pieces

    async def read(self, limit: int) -> bytes:
        """What has come, up to `limit` bytes; waits for something to come. Empty at the end.

        Raises:
            OSError: the connection broke.
            Unreadable: what came is no HTTP.
            Exception: what `fail` was given.
        """
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.complete:
                return b""
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        data = self._pieces.pop() if len(self._pieces) == 1 else self._joined()
        if len(data) > limit:
            self._pieces.append(data[limit:])
            data = data[:limit]
        self._size -= len(data)
        if self._connection.paused and self._size < BUFFER:
            self._connection.resume()
        return data

    def fail(self, failure: Exception) -> None:
        """Have reading fail, behind what has come."""
        self._failure = failure
        self.wake()

    def release(self) -> None:
        """Be done with the answer. One that was read to its end leaves its connection to the next request."""
        self._connection.release(self)

    def add(self, piece: bytes) -> None:
        """What has come of the body; `wake` follows."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > BUFFER:
            self._connection.pause()

    def wake(self) -> None:
        """Let the reader look at what is new."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _joined(self) -> bytes:
        joined = b"".join(self._pieces)
        self._pieces.clear()
        return joined


class Connection(asyncio.Protocol):
    """Carries one request at a time; `keep` takes it back when another may follow.

    One that is secured has the one `beneath` that it runs in.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        keep: Callable[["Connection"], None],
        beneath: "Connection | None" = None,
    ) -> None:
        self.loop = loop
        self.paused = False
        self._keep = keep
        self._beneath = beneath
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Answer | None = None
        self._head: asyncio.Future[None] | None = None
        """Done when the head of the answer has come."""
        self._bodiless = 0
        """Bytes since the last one of a body."""
        self._ends_with_connection = False
        """The body has no other end."""
        self._reusable = False
        self._closed = False

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None, "it carries nothing before it is made"
        return self._transport

    @property
    def open(self) -> bool:
        return not self._closed and not self.transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network; those of TLS are with the transport beneath."""
        return self.transport.get_write_buffer_size() + (self._beneath.unsent if self._beneath else 0)

    async def ask(self, request: bytes) -> Answer:
        """Send a request; returns when the head of its answer has come.

        Raises:
            OSError: the connection broke.
            Unreadable: what came is no HTTP.
        """
        self._parser = httptools.HttpResponseParser(self)
        # As most clients, we take heads whose lines have no CR, and spaces behind the size of a chunk.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self._answer = answer = Answer(self)
        self._head = self.loop.create_future()
        self._bodiless = 0
        self._ends_with_connection = False
        self._reusable = False
        self.transport.write(request)
        try:
            await self._head
        except BaseException:
            self.close()
            raise
        return answer

    def release(self, answer: Answer) -> None:
        """Be done with an answer, for good."""
        if self._answer is not answer:
            return
        self._answer = None
        # Where the request was answered before all of it was sent, nobody may read what is left of it.
        if answer.at_end and self._reusable and self.open and not self.unsent:
            self._keep(self)
        else:
            self.close()

    def hand_on(self) -> asyncio.Transport:
        """The transport, for another protocol to read."""
        self._answer = self._parser = None  # which refers to us
        return self.transport

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:  # TLS inside of a tunnel may end, or speak, before its transport is known
            with suppress(AttributeError):  # of the first Pythons 3.11, for TLS that was closed twice already
                self._transport.abort()

    def pause(self) -> None:
        """Have the service wait."""
        if not self.paused and self.open:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        self.paused = False
        if self.open:
            self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._ends_with_connection and self._answer is not None:
            self.on_message_complete()
            self._answer.wake()
        else:
            self._break(exc or ConnectionResetError("The service closed the connection."))
        self._parser = None  # which refers to us

    def data_received(self, data: bytes) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None:  # nobody has asked
            self.close()
            return
        self._bodiless += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            failure = Unreadable("What the service sent is no HTTP.")
            failure.__cause__ = error
            self._break(failure)
        else:
            if self._bodiless > MAX_HEAD:
                self._break(Unreadable(f"The service sent {self._bodiless} bytes around its answer."))
        answer.wake()

    def on_message_begin(self) -> None:
        self._reusable = False  # unless this is the answer: what follows it, nobody has asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None and self._head is not None and not self._head.done():  # else it is a trailer
            self._answer.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        answer, head, parser = self._answer, self._head, self._parser
        if answer is None or parser is None or head is None or head.done():
            return
        answer.status = parser.get_status_code()
        if answer.status < 100:
            self._break(Unreadable(f"The service sent {answer.status} as its status."))
        elif answer.status < 200:  # the answer is still to come
            answer.headers.clear()
        else:
            chunked = "chunked" in answer.header("transfer-encoding").lower()
            self._ends_with_connection = not (chunked or answer.header("content-length"))
            head.set_result(None)

    def on_body(self, piece: bytes) -> None:
        self._bodiless = 0
        if self._answer is not None and not self._answer.complete:
            self._answer.add(piece)

    def on_message_complete(self) -> None:
        if self._answer is not None and self._head is not None and self._head.done() and not self._answer.complete:
            self._answer.complete = True
            self._reusable = self._parser is not None and self._parser.should_keep_alive()

    def _break(self, failure: Exception) -> None:
        """End the connection, and what it carries."""
        if self._head is not None and not self._head.done():
            self._head.set_exception(failure)
        elif self._answer is not None and not self._answer.complete:
            self._answer.fail(failure)
        self.close()
