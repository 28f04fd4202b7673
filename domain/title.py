"""The title of a conversation, as long as its user has set none."""

import unicodedata
from typing import Final

TITLE_CHARS: Final = 80
"""Maximum length of a title that is made from a message, in code points."""

SOURCE_CHARS: Final = 1_000
"""How much of a message is read for a title. The rest cannot matter, unless nearly all of this is white space."""

MAX_SET_TITLE_CHARS: Final = 200
"""Maximum length of a title that a user sets, in code points."""

_ZERO_WIDTH_JOINER: Final = "\u200d"


def title_of(message: str) -> str:
    """Return the beginning of a message on one line.

    It does not end within a character that consists of several code points, e.g. a letter with its accents, a flag, or
    an emoji with its skin tone.
    """
    line = normalized(message[:SOURCE_CHARS])
    end = TITLE_CHARS
    while 0 < end < len(line) and _is_within_character(line, end):
        end -= 1
    return line[: end or TITLE_CHARS].rstrip() or "…"


def normalized(title: str) -> str:
    """Return a title with a single space for each run of white space, and none around it."""
    return " ".join(title.split())


def _is_within_character(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place]
    if _is_regional(before) and _is_regional(after):  # two make a flag
        start = place
        while start > 0 and _is_regional(text[start - 1]):
            start -= 1
        return (place - start) % 2 == 1
    return (
        before == _ZERO_WIDTH_JOINER
        or after == _ZERO_WIDTH_JOINER
        or unicodedata.category(after) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
    )


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
