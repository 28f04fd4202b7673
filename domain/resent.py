"""Finding the stored turns that a client still shows, if it sends the whole conversation with every message."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from domain.normal_form import in_normal_form

MAX_STORED: Final = 10_000
"""Stored turns among which the messages of a client are looked for: the latest ones."""

MAX_STORED_CHARS: Final = 4_000_000
"""Characters of their messages together, so that a request costs no more than a client can send with one."""

MAX_SKIPPED: Final = 100
"""Stored turns without a reply in a row that a client may have dropped."""

MAX_COMPARED: Final = 200_000
"""How often all messages of a request together may be compared with such turns."""


class SentMessage(NamedTuple):
    """A message that the user has sent, and whether there is a reply to it."""

    text: str
    answered: bool


Id = TypeVar("Id")


def within_size(latest_first: Iterable[tuple[Id, SentMessage]]) -> list[tuple[Id, SentMessage]]:
    """Return the latest messages that do not exceed MAX_STORED_CHARS together, but at least one; oldest first.

    Nothing is consumed beyond the first one that does not fit.
    """
    found: list[tuple[Id, SentMessage]] = []
    chars = 0
    for id, message in latest_first:
        chars += len(message.text)
        if found and chars > MAX_STORED_CHARS:
            break
        found.append((id, message))
    return found[::-1]


def kept(stored: Sequence[SentMessage], resent: Sequence[SentMessage]) -> int:
    """Return how many of the stored turns, oldest first, the client still shows before its new message.

    The others were retracted: the user wants another reply, or has edited a message. Messages are compared, never
    replies, which differ after a stop. White space around a message, the kind of its line ends and the form of its
    Unicode do not count. A stored message may have more lines before or after the client's, which a client adds for one
    request, e.g. documents it has found, or instructions for the model.

    Turns without a reply that the client does not show do not end the comparison, since clients drop what has failed.
    Messages that are not stored are skipped: they were refused, or sent elsewhere. A client may also leave out turns
    before others that it shows, e.g. the oldest ones, or one that the person has deleted. These count as shown: only
    what follows the last turn that the client shows is retracted.
    """
    stored, resent = _plain(stored), _plain(resent)
    shown, is_complete = _walk(stored, resent, 0)
    if not is_complete:
        last = max(index for index, message in enumerate(resent) if message.answered)
        if end := _end_with_gaps(stored, [message.text for message in resent if message.answered]):
            shown, _ = _walk(stored, resent[last + 1 :], end)
    return shown


def _walk(stored: Sequence[SentMessage], resent: Sequence[SentMessage], start: int) -> tuple[int, bool]:
    """Return the end of the stored turns that match from `start` on, and whether all answered messages are stored."""
    end, is_complete, left = start, True, MAX_COMPARED
    for message in resent:
        index, last = end, min(end + min(MAX_SKIPPED, left), len(stored))
        while index < last and not stored[index].answered and not _is_same(stored[index].text, message.text):
            index += 1
        left -= index - end
        if index < len(stored) and _holds(stored[index].text, message.text):
            end = index + 1
        elif message.answered:
            is_complete = False
    return end, is_complete


def _end_with_gaps(stored: Sequence[SentMessage], texts: Sequence[str]) -> int:
    """Return the end of the latest turns that match, whatever is between them; 0 if one is not stored."""
    end, index = 0, len(stored)
    for text in reversed(texts):
        index -= 1
        while index >= 0 and not _holds(stored[index].text, text):
            index -= 1
        if index < 0:
            return 0
        end = end or index + 1
    return end


def _plain(messages: Sequence[SentMessage]) -> Sequence[SentMessage]:
    """Return the messages without what a client may change in a text that it sends again."""
    return [SentMessage(_composed(text).replace("\r\n", "\n").strip(), answered) for text, answered in messages]


def _composed(text: str) -> str:
    """Return a text in NFC. Nearly all are already, which is found out without taking them apart."""
    return text if unicodedata.is_normalized("NFC", text) else in_normal_form("NFC", text)


def _is_same(stored: str, resent: str) -> bool:
    """Whether it is the same message, perhaps with lines before or after it. A long one costs no more."""
    if len(stored) <= len(resent):
        return stored == resent
    return stored.startswith(f"{resent}\n") or stored.endswith(f"\n{resent}")


def _holds(stored: str, resent: str) -> bool:
    """As `_is_same`, but with lines before and after it, too."""
    return _is_same(stored, resent) or (0 < len(resent) < len(stored) and f"\n{resent}\n" in stored)
