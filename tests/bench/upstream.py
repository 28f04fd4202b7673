"""A fake of the model's service that uses very little CPU time: it sends the same events for every request.

    python -m tests.bench.upstream TOKENS PAUSE_MS

Prints its port. Sends TOKENS deltas, one every PAUSE_MS milliseconds (0: as fast as they are read), with all the fields
that a real service sends.
"""

import asyncio
import json
import sys
from typing import Any, Final, cast

import uvloop

_SHARED: Final = {
    "id": "chatcmpl-9f8e7d6c5b4a",
    "object": "chat.completion.chunk",
    "created": 1_790_000_000,
    "model": "gpt-3.5-turbo-0125",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    b"x-request-id: req_0123456789\r\n\r\n"
)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    return _framed(b"data: " + json.dumps(_SHARED | {"choices": choices} | more).encode() + b"\n\n")


def _choice(delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]


_FIRST: Final = _event(_choice({"role": "assistant", "content": ""}))
_TEXT: Final = _event(_choice({"content": " word"}))
_USAGE: Final = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
_LAST: Final = _event(_choice({}, "stop")) + _event([], usage=_USAGE) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Connection(asyncio.Protocol):
    def __init__(self, tokens: int, pause: float) -> None:
        self._tokens = tokens
        self._pause = pause
        self._received = b""
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._reply: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None:
            self._reply.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, complete, body = self._received.partition(b"\r\n\r\n")
        if not complete:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) >= length:
            self._received = body[length:]
            self._reply = asyncio.get_running_loop().create_task(self._stream())

    async def _stream(self) -> None:
        self._transport.write(_HEAD + _FIRST)
        for number in range(self._tokens):
            if self._pause:
                await asyncio.sleep(self._pause)
            else:
                await self._may_write.wait()
                if number % 8 == 7:
                    await asyncio.sleep(0)
            self._transport.write(_TEXT)
        self._transport.write(_LAST)


async def _serve(tokens: int, pause: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(tokens, pause), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
