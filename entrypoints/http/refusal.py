"""The response to a request that the application never receives, because it was not understood or not complete."""

from typing import Any

import anyio
from starlette.types import Message, Receive, Scope, Send

from entrypoints.http.disconnect import wait_for_disconnect
from entrypoints.http.middleware import RequestContext
from entrypoints.http.request_problems import RequestProblem


class Refusal:
    """An ASGI application that responds with a problem, which is logged like any other response.

    Before the connection is closed, it waits up to `linger` seconds for the client to do so: closing a connection with
    unread data makes the operating system discard what the client has not read yet.
    """

    def __init__(self, reason: RequestProblem, linger: float = 1) -> None:
        self._reason = reason
        self._linger = linger
        self._app = RequestContext(self._respond)

    @staticmethod
    def scope(client: Any) -> Scope:
        """Return the scope for a request of which nothing is known."""
        return {"type": "http", "http_version": "1.1", "method": None, "path": "", "headers": [], "client": client}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_end(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await self._reason.response(scope["state"]["request_id"])(scope, receive, send_without_end)
        with anyio.move_on_after(self._linger):
            await wait_for_disconnect(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
