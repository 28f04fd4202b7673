"""The response that follows a turn's log."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from application.ports.live_turns import Batch, Reader
from domain.conversation import TurnId
from entrypoints.http.disconnect import while_present
from entrypoints.http.native.wire import COMMENT, encode


class EventStream(Response):
    """One reader of a turn's log, present until the end or until the client leaves.

    What has gathered since the last write goes out in one write, so a busy service coalesces by itself.
    """

    media_type = "text/event-stream"

    def __init__(
        self, reader: Reader, turn_id: TurnId, *, comment_interval: float, after: int = 0, start: Batch | None = None
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.headers["X-Turn-ID"] = turn_id
        self._reader = reader
        self._turn_id = turn_id
        self._interval = comment_interval
        self._after = after
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._reader:
            await while_present(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        batch = self._start or await self._reader.next(self._interval)
        while batch.end is None:
            events = encode(batch, self._turn_id, self._after) or COMMENT
            await send({"type": "http.response.body", "body": events, "more_body": True})
            batch = await self._reader.next(self._interval)
        events = encode(batch, self._turn_id, self._after)
        await send({"type": "http.response.body", "body": events, "more_body": False})
