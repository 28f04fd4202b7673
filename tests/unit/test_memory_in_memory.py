"""The memory in process memory: the behaviour beyond its port."""

from datetime import UTC, datetime

from adapters.memory_in_memory import MemoryInMemory
from domain.conversation import UserId


async def test_nothing_is_kept_of_a_user_whose_last_memory_was_deleted() -> None:
    memory, user = MemoryInMemory(lambda: datetime.now(UTC)), UserId("ada")
    stored = await memory.store(user, "likes tea", 0.5)
    await memory.forget(user, stored.id)

    assert {} == memory._memories
