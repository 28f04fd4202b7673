"""Listings in parts, newest first: a place in the order, and how much a part may hold."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from domain.conversation import Turn
from domain.errors import UnknownCursor

Item = TypeVar("Item")

PAGE_BYTES: Final = 900_000
"""Text in a page of turns, in UTF-8: an answer stays near a megabyte, whatever the limit that was asked for."""

BEYOND_ALL: Final = 10**18
"""A place behind every place that a cursor can name."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a listing; `next_cursor` leads to the rest, and is None at the end."""

    items: Sequence[Item]
    next_cursor: str | None


def place_of(cursor: str | None) -> int:
    """The place that a page's cursor stands for; behind everything where there is none.

    Raises:
        UnknownCursor: no page gave it.
    """
    if cursor is None:
        return BEYOND_ALL
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UnknownCursor("The cursor is not one that this service gave.")
    return int(cursor)


def page_of(
    latest_first: Iterable[tuple[int, Item]], limit: int, size: Callable[[Item], int] = lambda _: 0
) -> Page[Item]:
    """The first `limit` of what is given with its places, or fewer, if not none, where `size` adds up to more than
    PAGE_BYTES. Nothing is asked for beyond the first item that does not go in."""
    items: list[Item] = []
    last, total = 0, 0
    for place, item in latest_first:
        total += size(item)
        if len(items) == limit or (items and total > PAGE_BYTES):
            return Page(items, str(last))
        items.append(item)
        last = place
    return Page(items, None)


def page_of_turns(latest_first: Iterable[tuple[int, Turn]], limit: int) -> Page[Turn]:
    """The same for turns, with the oldest first in the page."""
    page = page_of(latest_first, limit, lambda turn: len(turn.user_message.encode()) + len(turn.reply.encode()))
    return Page(page.items[::-1], page.next_cursor)
