"""Text of others on a terminal: a model, a user or a server must not control the terminal of the reader."""

import re
from typing import Final

_BIDI_CONTROLS: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Reorder the text around them, so that it reads as something else."""

_REPLACED: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20)},  # ␀ to ␟
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): "",
    0x2028: "\n",
    0x2029: "\n",
}
"""Control characters, halves of surrogate pairs and separators of lines, each with what is shown of it."""


def printable(text: str) -> str:
    """Return `text` with visible signs in place of control characters, so that it may come in pieces.

    Of an escape sequence, which begins with one, the rest is shown as text. Line breaks and tabs stay.

    >>> printable("a \x1b[31mred\x1b[0m word\\r\\n")
    'a ␛[31mred␛[0m word\\n'
    """
    return _BIDI_CONTROLS.sub("", text).translate(_REPLACED)
