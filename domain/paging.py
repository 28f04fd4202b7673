"""Listings in pages, newest first: cursors, and the size limit of a page."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

from domain.conversation import Turn
from domain.errors import UnknownCursor
from domain.memory import Memory

Item = TypeVar("Item")

MAX_PAGE_BYTES: Final = 900_000
"""Text in a page of turns or memories, in bytes of JSON. Keeps a response near a megabyte for any `limit`."""

BEYOND_ALL: Final = 10**18
"""A position after every position that a cursor can name."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a listing. `next_cursor` leads to the next page; None on the last one."""

    items: Sequence[Item]
    next_cursor: str | None


def parse_cursor(cursor: str | None) -> int:
    """Return the position that a cursor names, or BEYOND_ALL for None.

    Raises:
        UnknownCursor: the cursor was not issued by a page.
    """
    if cursor is None:
        return BEYOND_ALL
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UnknownCursor("The cursor was not issued by this service.")
    return int(cursor)


def page_of(
    latest_first: Iterable[tuple[int, Item]], limit: int, size: Callable[[Item], int] = lambda _: 0
) -> Page[Item]:
    """Return the first `limit` of the items, which are given with their positions.

    The page ends earlier, but not empty, if the sizes would add up to more than MAX_PAGE_BYTES. Nothing is consumed
    beyond the first item that does not fit.
    """
    items: list[Item] = []
    last, total = 0, 0
    for position, item in latest_first:
        total += size(item)
        if len(items) == limit or (items and total > MAX_PAGE_BYTES):
            return Page(items, str(last))
        items.append(item)
        last = position
    return Page(items, None)


def _json_bytes(text: str) -> int:
    """Return the size of a text in JSON, in which a control character takes six bytes.

    >>> _json_bytes("Größe"), _json_bytes(chr(1))
    (9, 8)
    """
    return len(json.dumps(text, ensure_ascii=False).encode())


def page_of_turns(latest_first: Iterable[tuple[int, Turn]], limit: int) -> Page[Turn]:
    """Return a page of turns, oldest first within the page."""
    page = page_of(latest_first, limit, lambda turn: _json_bytes(turn.user_message) + _json_bytes(turn.reply))
    return Page(page.items[::-1], page.next_cursor)


def page_of_latest_memories(latest_first: Iterable[tuple[int, Memory]], limit: int) -> Page[Memory]:
    """Return a page of memories, newest first, from those before a cursor and their positions."""
    return page_of(latest_first, limit, lambda memory: _json_bytes(memory.fact))


def page_of_memories(memories: Iterable[Memory], limit: int, cursor: str | None) -> Page[Memory]:
    """Return a page of memories, newest first, from a complete listing of a user's memories.

    For stores that have no order of their own. A memory's position is its creation time in units of 10 ns, so that 100
    memories of the same microsecond have distinct positions; further ones take positions of the next microsecond.

    Raises:
        UnknownCursor: the cursor was not issued by a page.
    """
    before = parse_cursor(cursor)
    position, positioned = 0, []
    for memory in sorted(memories, key=lambda memory: (memory.created_at, memory.id)):
        position = max(position + 1, (memory.created_at - _EPOCH) // timedelta(microseconds=1) * 100)
        positioned.append((position, memory))
    return page_of_latest_memories((entry for entry in reversed(positioned) if entry[0] < before), limit)
