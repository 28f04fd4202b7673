"""The native format: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One event per delta, one for the end, and `[DONE]`, numbered from 1 in their `id`.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from orjson import dumps

from application.ports.live_turns import Batch, End
from domain.conversation import TurnId
from entrypoints.http.wire import Wire

_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""U+0085, U+2028 and U+2029 as UTF-8, and as escapes in JSON: `str.splitlines`, with which some clients find the lines
of a stream, splits at them. It also splits at some control characters, which are escaped anyway. None is printable."""

_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


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
        return {**_HEADERS, "X-Turn-ID": self._turn_id}

    def encode(self, batch: Batch) -> bytes:
        events = []
        number = batch.first
        for delta in batch.deltas:
            # orjson writes no spaces; the documented form has one after each colon and comma.
            content = dumps(delta)
            if not (delta.isascii() or delta.isprintable()):
                content = _escape_line_ends(content)
            events.append(b'id: %d\ndata: {"content": %b, "done": false}\n\n' % (number, content))
            number += 1
        if batch.end is not None:
            if number > self._after:
                end = _escape_line_ends(json.dumps(self._end(batch.end), ensure_ascii=False).encode())
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


def _escape_line_ends(encoded: bytes) -> bytes:
    """Escape the characters of `_LINE_ENDS` in JSON, which has them only within strings."""
    for character, escape in _LINE_ENDS:
        encoded = encoded.replace(character, escape)
    return encoded
