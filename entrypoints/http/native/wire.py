"""The native format: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One event per delta, one for the end, and `[DONE]`, numbered from 1 in their `id`.
"""

import json
from collections.abc import Mapping
from typing import Any

from application.ports.live_turns import Batch, End
from domain.conversation import TurnId
from entrypoints.http.server_sent import STREAM_HEADERS, escape_line_ends, quoted
from entrypoints.http.wire import Wire


class NativeWire(Wire):
    """Sends the deltas of each batch, and those events of the end that are numbered above `after`."""

    # A comment line without the usual blank line: some client libraries take any blank line for the end of an event,
    # and would fail on one without data.
    keep_alive = b": keep-alive\n"

    def __init__(self, turn_id: TurnId, after: int = 0) -> None:
        self._turn_id = turn_id
        self._after = after

    @property
    def head(self) -> Mapping[str, str]:
        return {**STREAM_HEADERS, "X-Turn-ID": self._turn_id}

    def encode(self, batch: Batch) -> bytes:
        events = []
        number = batch.first
        for delta in batch.deltas:
            events.append(b'id: %d\ndata: {"content": %b, "done": false}\n\n' % (number, quoted(delta)))
            number += 1
        if batch.end is not None:
            if number > self._after:
                end = escape_line_ends(json.dumps(self._end(batch.end), ensure_ascii=False).encode())
                events.append(b"id: %d\ndata: %b\n\n" % (number, end))
            if number + 1 > self._after:
                events.append(b"id: %d\ndata: [DONE]\n\n" % (number + 1))
        return b"".join(events)

    def _end(self, end: End) -> dict[str, Any]:
        event: dict[str, Any] = {"content": "", "done": True}
        if end.failure is not None:
            event["error"] = {
                "code": end.failure.code,
                "title": end.failure.title,
                "detail": end.failure.detail,
                "turn_id": self._turn_id,
                "retryable": end.failure.retryable,
            }
        elif end.finish_reason != "stop":
            event["finish_reason"] = end.finish_reason
        return event
