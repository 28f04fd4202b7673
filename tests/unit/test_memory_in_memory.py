"""The memory in process memory: the behaviour beyond its port."""

from datetime import UTC, datetime

from adapters.memory_in_memory import MemoryInMemory
from domain.conversation import UserId
from domain.memory import MAX_FACT_CHARS


async def test_nothing_is_kept_of_a_user_whose_last_memory_was_deleted() -> None:
    memory, user = MemoryInMemory(lambda: datetime.now(UTC)), UserId("ada")
    stored = await memory.store(user, "likes tea", 0.5)
    await memory.forget(user, stored.id)

    assert {} == memory._memories


async def test_a_page_ends_before_its_text_exceeds_a_megabyte() -> None:
    memory, user = MemoryInMemory(lambda: datetime.now(UTC)), UserId("ada")
    for _ in range(100):
        await memory.store(user, "\x01" * MAX_FACT_CHARS, 0.5)
    page = await memory.page(user, 200, None)

    assert 60 < len(page.items) < 80
    assert len((await memory.page(user, 200, page.next_cursor)).items) == 100 - len(page.items)
