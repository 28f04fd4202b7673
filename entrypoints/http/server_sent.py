"""What all formats of server-sent events have in common."""

from typing import Final

from orjson import dumps

STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""U+0085, U+2028 and U+2029 as UTF-8, and as escapes in JSON: `str.splitlines`, with which some clients find the lines
of a stream, splits at them. It also splits at some control characters, which are escaped anyway. None is printable."""


def quoted(text: str) -> bytes:
    """Return text as a JSON string without any line end."""
    encoded = dumps(text)
    return encoded if text.isascii() or text.isprintable() else escape_line_ends(encoded)


def escape_line_ends(encoded: bytes) -> bytes:
    """Escape the characters of `_LINE_ENDS` in JSON, which has them only within strings."""
    for character, escape in _LINE_ENDS:
        encoded = encoded.replace(character, escape)
    return encoded
