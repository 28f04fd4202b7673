"""Pages of memories from a store that lists them in no particular order."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import UnknownCursor
from domain.memory import MAX_FACT_CHARS, Memory, MemoryId
from domain.paging import page_of_memories

START = datetime(2026, 11, 1, tzinfo=UTC)


def memory(number: int, created_at: datetime) -> Memory:
    return Memory(MemoryId(f"00000000-0000-4000-8000-{number:012}"), "ada", f"fact {number}", 0.5, created_at)


def all_pages(memories: list[Memory], limit: int) -> list[Memory]:
    items: list[Memory] = []
    cursor = None
    while True:
        page = page_of_memories(random.Random(len(items)).sample(memories, len(memories)), limit, cursor)
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


@pytest.mark.parametrize("step", [timedelta(0), timedelta(microseconds=1), timedelta(days=1)])
def test_pages_are_newest_first_and_contain_each_memory_once(step: timedelta) -> None:
    memories = [memory(number, START + number * step) for number in range(250)]

    assert memories[::-1] == all_pages(memories, limit=40)


def test_a_newer_memory_does_not_shift_the_next_page() -> None:
    memories = [memory(number, START + timedelta(seconds=number)) for number in range(4)]
    first = page_of_memories(memories, 2, None)
    second = page_of_memories([*memories, memory(9, START + timedelta(days=1))], 2, first.next_cursor)

    assert memories[::-1] == [*first.items, *second.items]


def test_memories_older_than_the_epoch_have_valid_cursors() -> None:
    memories = [memory(number, datetime(1960, 1, 1, tzinfo=UTC)) for number in range(3)]

    assert memories[::-1] == all_pages(memories, limit=1)


def test_an_unknown_cursor_is_rejected() -> None:
    with pytest.raises(UnknownCursor):
        page_of_memories([], 10, "garbage")


def test_a_page_ends_before_its_text_exceeds_a_megabyte() -> None:
    memories = [replace(memory(number, START), fact="\x01" * MAX_FACT_CHARS) for number in range(200)]
    page = page_of_memories(memories, 200, None)

    text = json.dumps([one.fact for one in page.items])
    assert 800_000 < len(text) < 1_000_000
    assert sorted(all_pages(memories, limit=200), key=lambda one: one.id) == memories
