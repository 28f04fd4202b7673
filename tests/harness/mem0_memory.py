"""Users, turns and small helpers for tests of Mem0's library."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from adapters.memory_mem0 import MemoryMem0
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId

ADA, BOB = UserId("ada"), UserId("bob")
SECRET = "Xylophonographie"
"""A word that occurs only in texts of the tests."""


def completed(message: str, reply: str = "I see.", user_id: UserId = ADA) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message)
    return turn.completed(reply, "stop")


async def facts(memory: MemoryMem0, user_id: UserId = ADA) -> list[str]:
    return [one.fact for one in (await memory.page(user_id, 1000, None)).items]


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition until it is true; the test's timeout bounds the wait."""
    while not condition():
        await asyncio.sleep(0.01)
