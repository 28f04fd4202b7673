"""The time to read from histories of increasing size."""

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.tables import conversations, turns, users
from domain.conversation import DEFAULT_CONVERSATION, UserId

SIZES = (10, 1_000, 100_000, 1_000_000)
READS = 200
_BATCH_SIZE = 10_000


def measure() -> float:
    """Print the times to read a context and a page for each size, as ratios to the smallest size.

    Returns the larger of the two ratios for the largest size.
    """
    print("\nreading 10 turns from a history of n turns")
    base: dict[str, float] = {}
    ratio = 1.0
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            times = asyncio.run(_measure(Path(folder, "chat.db"), size))
        base = base or times
        ratio = max(value / base[name] for name, value in times.items())
        print(
            f"  {size:9,}  "
            + "  ".join(f"{name} {value / base[name]:5.2f} × ({value:.0f} µs)" for name, value in times.items())
        )
    return ratio


async def _measure(path: Path, size: int) -> dict[str, float]:
    database = SQLiteDatabase(f"sqlite:///{path}")
    await database.open()
    history, user = HistorySQL(database), UserId("bench")
    for start in range(0, size, _BATCH_SIZE):
        await database.write(partial(fill, user=user, start=start, count=min(size - start, _BATCH_SIZE)))
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "context": lambda: history.latest(user, DEFAULT_CONVERSATION, 10),
        "page": lambda: history.page(user, None, 10, None),
    }
    medians = {}
    for name, read in reads.items():
        times = []
        for _ in range(READS):
            before = asyncio.get_running_loop().time()
            await read()
            times.append(asyncio.get_running_loop().time() - before)
        medians[name] = statistics.median(times) * 1e6
    await database.close()
    return medians


def fill(connection: Connection, user: UserId, start: int, count: int) -> None:
    now = datetime.now(UTC)
    if not start:
        connection.execute(users.insert(), {"id": user, "last_seq": 1_000_000})
        conversation: dict[str, Any] = {
            "user_id": user,
            "id": DEFAULT_CONVERSATION,
            "created_at": now,
            "updated_at": now,
        }
        connection.execute(conversations.insert(), conversation | {"last_seq": 1_000_000, "turns": 1_000_000})
    rows = [
        {
            "id": f"{number:032x}",
            "user_id": user,
            "conversation_id": DEFAULT_CONVERSATION,
            "seq": number + 1,
            "started_at": now,
            "user_message": "Hello, how are you today?",
            "reply": " word" * 100,
            "status": "completed",
            "reason": None,
        }
        for number in range(start, start + count)
    ]
    connection.execute(turns.insert(), rows)
