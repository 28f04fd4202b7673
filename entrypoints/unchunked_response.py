"""Responses to clients that speak HTTP/1.0, which does not know `Transfer-Encoding: chunked`."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def without_chunks(cycle: RequestResponseCycle, app: Any) -> Any:
    """Return an ASGI application that responds like `app`, but without chunks, whatever the length of its response.

    The end of the connection ends the response. `cycle` is that of the request; uvicorn would choose chunks for every
    response without a length.
    """
    cycle.chunked_encoding = False

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        async def send_unframed(message: Any) -> None:
            cycle.expected_content_length = len(message.get("body", b""))  # uvicorn compares the two
            await send(message)

        await app(scope, receive, send_unframed)

    return respond
