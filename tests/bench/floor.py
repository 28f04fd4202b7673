"""The baseline "floor": bare ASGI and an HTTP client, without validation or storage; the least possible in Python."""

import os

import aiohttp
import orjson
from starlette.types import Receive, Scope, Send

_URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
_END = b'data: {"content": "", "done": true}\n\ndata: [DONE]\n\n'
_session: list[aiohttp.ClientSession] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        _session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await _session.pop().close()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await _chat(receive, send)


async def _chat(receive: Receive, send: Send) -> None:
    body = b""
    while True:
        part = await receive()
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    message = {"role": "user", "content": orjson.loads(body)["message"]}
    request = orjson.dumps({"model": "bench", "messages": [message], "stream": True})
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with _session[0].post(_URL, data=request, headers={"content-type": "application/json"}) as reply:
        rest = b""
        async for read in reply.content.iter_any():
            *events, rest = (rest + read).split(b"\n\n")
            if out := b"".join(map(_translate, events)):
                await send({"type": "http.response.body", "body": out, "more_body": True})
    await send({"type": "http.response.body", "body": _END})


def _translate(event: bytes) -> bytes:
    if event == b"data: [DONE]":
        return b""
    choices = orjson.loads(event[6:])["choices"]
    text = choices and choices[0]["delta"].get("content")
    return b'data: {"content": %b, "done": false}\n\n' % orjson.dumps(text) if text else b""
