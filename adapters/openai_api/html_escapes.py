"""The character references of HTML."""

import html
import re
from typing import Final

_HUGE: Final = re.compile("&#[0-9]{1000,};?")
"""A reference with more digits than `int` accepts in the end: `html.unescape` raises ValueError."""


def unescape(text: str) -> str:
    """Replace the character references in `text`. Those beyond Unicode become U+FFFD, however long they are."""
    return html.unescape(_HUGE.sub("\ufffd", text))
