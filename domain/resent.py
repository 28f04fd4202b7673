"""Finding the stored turns that a client still shows, if it sends the whole conversation with every message."""

from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_STARTS: Final = 100
"""Places at which the messages of a client that leaves out the oldest ones are looked for, latest first."""


class Said(NamedTuple):
    """A message of the user, and whether there is a reply to it."""

    text: str
    answered: bool


def kept(stored: Sequence[Said], resent: Sequence[Said]) -> int:
    """Return how many of the stored turns, oldest first, the client still shows before its new message.

    The others were retracted: the user wants another reply, or has edited a message. Messages are compared, never
    replies, which differ after a stop. A stored message may have more text before the client's, which a client adds for
    one request, e.g. documents it has found.

    Turns without a reply that the client does not show do not end the comparison, since clients drop what has failed.
    Messages that are not stored are skipped: they were refused, or sent elsewhere. A client that has left out the
    oldest turns shows a later part of the stored ones.
    """
    shown, unknown = _walk(stored, resent, 0)
    if unknown and resent:
        first = resent[0].text
        starts = [index for index in range(1, len(stored)) if _is_same(stored[index].text, first)]
        for start in reversed(starts[-MAX_STARTS:]):
            end, missing = _walk(stored, resent, start)
            if not missing:
                return end
    return shown


def _walk(stored: Sequence[Said], resent: Sequence[Said], start: int) -> tuple[int, int]:
    """Return the end of the stored turns that match from `start` on, and how many answered messages are not stored."""
    end, unknown = start, 0
    for message in resent:
        index = end
        while index < len(stored) and not stored[index].answered and not _is_same(stored[index].text, message.text):
            index += 1
        if index < len(stored) and _is_same(stored[index].text, message.text):
            end = index + 1
        elif message.answered:
            unknown += 1
    return end, unknown


def _is_same(stored: str, resent: str) -> bool:
    return stored == resent or stored.endswith("\n" + resent)
