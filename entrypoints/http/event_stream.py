"""The response that streams a turn's events."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from application.ports.live_turns import Batch
from application.turns.handle import TurnHandle
from entrypoints.http.disconnect import until_disconnect
from entrypoints.http.wire import Wire


class EventStream(Response):
    """Reads a turn's log until its end, or until the client disconnects.

    Everything appended since the last write is sent in one write, so that a busy service batches by itself. `start` is
    a batch that was read already. After `idle_interval` seconds without events, a keep-alive is sent.
    """

    def __init__(self, handle: TurnHandle, wire: Wire, *, idle_interval: float, start: Batch | None = None) -> None:
        super().__init__(headers=dict(wire.head))
        del self.headers["content-length"]
        self._handle = handle
        self._wire = wire
        self._idle_interval = idle_interval
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._handle:
            await until_disconnect(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        handle, wire, idle_interval = self._handle, self._wire, self._idle_interval
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        batch = self._start or await handle.next(idle_interval)
        while batch is None or batch.end is None:
            body = wire.keep_alive if batch is None else wire.encode(batch)
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            batch = await handle.next(idle_interval)
        await send({"type": "http.response.body", "body": wire.encode(batch), "more_body": False})
