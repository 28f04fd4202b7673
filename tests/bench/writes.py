"""The bytes that the history writes to store replies, per byte of their text.

    python -m tests.bench.writes

Counts every write to the database and its log: each reply is saved once a second while it is generated, then finished,
and everything is moved from the log into the database. Time is not waited for.
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.history import ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId

REPLIES = 100
SECONDS = 60
BYTES_PER_SECOND = (4_000, 200)
EARLIER_REPLIES = 1_000
"""Replies that are in the database already."""
_LEASE = timedelta(seconds=15)


def measure() -> float:
    """Print the ratio for fast and for slow replies. Returns that for fast ones."""
    print(f"\nbytes written per byte of reply, {REPLIES} replies of {SECONDS} seconds at once")
    ratios = [asyncio.run(ratio(size)) for size in BYTES_PER_SECOND]
    for size, found in zip(BYTES_PER_SECOND, ratios, strict=True):
        print(f"  {size:5,} bytes/s  {found:5.2f}")
    return ratios[0]


async def ratio(size: int, *, replies: int = REPLIES, seconds: int = SECONDS) -> float:
    """Return the bytes written per byte, for replies of `size` bytes per second."""
    moment = datetime.now(UTC)  # leases are renewed as often as they are in a running service
    with tempfile.TemporaryDirectory() as folder:
        database = SQLiteDatabase(f"sqlite:///{Path(folder, 'chat.db')}")
        await database.open()

        def clock() -> datetime:
            return moment

        history = HistorySQL(database, clock)

        async def reply(seconds: int) -> None:
            nonlocal moment
            turns = [
                Turn(TurnId(str(uuid4())), UserId(f"user{n}"), DEFAULT_CONVERSATION, moment, "Tell me a story, please.")
                for n in range(replies)
            ]
            await asyncio.gather(*(history.begin(TurnBegin(turn, _LEASE)) for turn in turns))
            for second in range(seconds):
                moment += timedelta(seconds=1)
                addition = ReplyAddition(second * size, "x" * size)
                await history.save_progress({turn.id: addition for turn in turns}, _LEASE)
            text = "x" * size * seconds + "."
            for turn in turns:
                await history.finish(TurnEnd(turn.completed(text, "stop")))

        for _ in range(0, EARLIER_REPLIES, REPLIES):
            await reply(10)
        before = await asyncio.to_thread(_bytes_written)
        await reply(seconds)
        await database.close()  # moves the log into the database
        return (await asyncio.to_thread(_bytes_written) - before) / (replies * seconds * size)


def _bytes_written() -> int:
    with Path("/proc/self/io").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


if __name__ == "__main__":
    measure()
