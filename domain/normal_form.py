"""Unicode normalisation of texts that anybody may have sent, in linear time."""

import re
import unicodedata
from typing import Final, Literal

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]

MAX_RUN: Final = 64
"""Longest run of combining characters, in code points, that is put into canonical order. No language needs more."""

_LONG_RUN: Final = re.compile(rf"((?:[^\w\x00-\u02ff]|[\uff9e\uff9f]){{{MAX_RUN + 1},}})")
r"""A longer run of characters that are combining, or begin with a combining one when they are decomposed.

All of these are matched by neither `\w` nor the characters before U+0300, except U+FF9E and U+FF9F.
"""


def in_normal_form(form: Form, text: str) -> str:
    """Return a text in a Unicode normal form, except that the order within long runs of combining characters is kept.

    Putting n combining characters into canonical order takes n² steps: hours for those that fit into one request. The
    characters of a run that is longer than MAX_RUN are therefore normalised one by one.

    >>> in_normal_form("NFC", "e" + chr(0x301)) == chr(0xE9)
    True
    """
    parts = _LONG_RUN.split(text)  # every other one is a long run
    return "".join(
        "".join(unicodedata.normalize(form, character) for character in part)
        if index % 2
        else unicodedata.normalize(form, part)
        for index, part in enumerate(parts)
    )
