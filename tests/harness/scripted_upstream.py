"""An OpenAI-compatible server over real sockets with scripted faults: the name of the model selects one.

    async with ScriptedUpstream() as upstream: ...          on the test's event loop
    with serving_in_thread(ScriptedUpstream()): ...         for synchronous tests
    python -m tests.harness.scripted_upstream --port 0      as a process; prints its port; GET returns its requests

The faults are in scripted_faults.py.
"""

import argparse
import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self, cast

from tests.harness.scripted_faults import find

TEXTS = ("Hello", ", ", "world", "!")
NASTY_TEXTS = (
    "nul \0 inside",
    "lone \ud83d high",
    "lone \ude00 low",
    "line\r\nfeeds\n\n",
    "\u2028\u2029\u0085\x1c",
    "data: [DONE]\n\n",
    "👩‍👩‍👧‍👦 familie e\u0301 \ufeff",
    '"quotes" \\ and {braces}',
    "\x7f\x1b[31m",
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


@dataclass(frozen=True)
class Request:
    """One request as received. `received_at` is the time of `time.monotonic()`."""

    path: str
    headers: Mapping[str, str]
    body: Any
    received_at: float = field(default_factory=time.monotonic, compare=False)


class Call(asyncio.Protocol):
    """One connection, with the building blocks of faults."""

    def __init__(self, upstream: "ScriptedUpstream") -> None:
        self.upstream = upstream
        self.received = b""
        self.responding: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.request = Request("", {}, None)
        self.numbers: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.responding:
            self.responding.cancel()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, gap, body = self.received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        if gap and len(body) >= length:
            self.received = body[length:]
            method, path, _ = lines[0].split(" ")
            self.request = Request(path, headers, json.loads(body[:length] or b"null"))
            self.responding = asyncio.get_running_loop().create_task(self._respond(method))

    async def _respond(self, method: str) -> None:
        if method == "GET":
            return self.respond(
                200, {"open": self.upstream.open, "requests": [asdict(r) for r in self.upstream.requests]}
            )
        self.upstream.requests.append(self.request)
        self.upstream.open += 1
        try:
            fault, self.numbers = find(self.request.body["model"])
            await fault(self)
        finally:
            self.upstream.open -= 1

    def number(self, index: int, default: int) -> int:
        """Return a number in the name of the model, e.g. 20 for index 1 of `tokens-100-20`."""
        return self.numbers[index] if len(self.numbers) > index else default

    def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        fields = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode())

    def begin(self) -> None:
        self.head(transfer_encoding="chunked")
        self.chunk({"role": "assistant", "content": ""})

    def send(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, fields: Mapping[str, Any], ascii: bool = True) -> bytes:
        common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
        return b"data: " + json.dumps({**common, **fields}, ensure_ascii=ascii).encode() + b"\n\n"

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> None:
        self.send(self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))

    async def deltas(self, count: int | None = None, pause: float = 0) -> None:
        """Send `count` deltas (default: each once), `pause` seconds apart. Starts over when all have been sent."""
        texts = self.upstream.texts
        for index in range(len(texts) if count is None else count):
            await asyncio.sleep(pause)
            await self.writable.wait()
            self.chunk({"content": texts[index % len(texts)]})

    def end(self, finish: str | None = "stop", *, usages: int = 1, done: bool = True) -> None:
        if finish:
            self.chunk({}, finish)
        for _ in range(usages):
            self.send(self.event({"choices": [], "usage": USAGE}))
        if done:
            self.send(b"data: [DONE]\n\n")
        self.send(b"")

    def respond(self, status: int, body: object, kind: str = "application/json", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.head(status, kind, content_length=str(len(data)), **headers)
        self.transport.write(data)

    def reject(
        self, status: int, message: str, code: str | None = None, param: str | None = None, **headers: str
    ) -> None:
        error = {"message": message, "type": "invalid_request_error", "code": code, "param": param}
        self.respond(status, {"error": error}, **headers)

    @property
    def secret_reason(self) -> str:
        """A message for the operator that quotes what it must not: the key and the user."""
        quoted = [message["content"] for message in self.request.body.get("messages", ())[-1:]]
        return f"secret reason of the provider: {self.request.headers.get('authorization')} asked {quoted}"

    def reset(self) -> None:
        sock: socket.socket = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def hang(self) -> None:
        await asyncio.Event().wait()

    def times(self) -> int:
        """Count the requests so far for the same model."""
        return sum(request.body["model"] == self.request.body["model"] for request in self.upstream.requests)


class ScriptedUpstream:
    """The received requests, and the content of replies. `texts` are the deltas of an ordinary reply."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Request] = []
        self.open = 0
        self.texts: tuple[str, ...] = TEXTS
        self.nasty_texts: tuple[str, ...] = NASTY_TEXTS
        self.error_code: str | int | None = "server_error"
        self._calls: list[Call] = []

    @property
    def connections(self) -> int:
        """Number of connections accepted so far."""
        return len(self._calls)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self) -> Call:
        self._calls.append(Call(self))
        return self._calls[-1]

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for call in self._calls:
            call.transport.abort()
        await asyncio.gather(*(call.responding for call in self._calls if call.responding), return_exceptions=True)
        await self._server.wait_closed()

    async def all_closed(self) -> None:
        """Wait until no call is open; the timeout of the test limits this."""
        while self.open:
            await asyncio.sleep(0.01)


@contextmanager
def serving_in_thread(upstream: ScriptedUpstream) -> Iterator[None]:
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with upstream:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        started.wait()
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def main(port: int) -> None:
    async with ScriptedUpstream(port) as upstream:
        print(upstream.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(main(parser.parse_args().port))
