"""The events of a reply as bytes (WHATWG HTML, 9.2): whole events, numbered from 1."""

import json
from typing import Any, Final

import orjson

from application.ports.live_turns import Batch, End
from domain.conversation import TurnId

# Without the blank line that usually follows: a parser that takes every blank line for an event's end, as some client
# libraries do, would see an event without data.
COMMENT: Final = b": keep-alive\n"


def encode(batch: Batch, turn_id: TurnId, after: int = 0) -> bytes:
    """The batch's events with numbers above `after`, one event a text."""
    events = []
    number = batch.first
    for text in batch.texts:
        # orjson writes UTF-8 and no space; the documented form has one after each colon and comma.
        events.append(b'id: %d\ndata: {"content": %b, "done": false}\n\n' % (number, orjson.dumps(text)))
        number += 1
    if batch.end is not None:
        if number > after:
            last = json.dumps(_last(batch.end, turn_id), ensure_ascii=False).encode()
            events.append(b"id: %d\ndata: %b\n\n" % (number, last))
        if number + 1 > after:
            events.append(b"id: %d\ndata: [DONE]\n\n" % (number + 1))
    return b"".join(events)


def _last(end: End, turn_id: TurnId) -> dict[str, Any]:
    last: dict[str, Any] = {"content": "", "done": True}
    if end.error is not None:
        last["error"] = {
            "code": end.error.code,
            "title": end.error.title,
            "detail": end.error.detail,
            "turn_id": turn_id,
            "retryable": end.error.retryable,
        }
    elif end.finish_reason != "stop":
        last["finish_reason"] = end.finish_reason
    return last
