"""The latency of turns while other clients write, delete or search without a pause.

python -m tests.bench.neighbours
"""

import asyncio
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter

import aiohttp

from adapters.memory_sql import MemorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from domain.conversation import UserId
from tests.bench.history import fill
from tests.bench.servers import service, upstream

CLIENTS = 4
"""Number of clients that delete or search."""
TURNS, MEMORIES, MEMORY_CHARS = 16_000, 2_000, 1_900
"""The size of the database, of a searched user's memories, and of one of those."""
QUERY_WORDS = 30

Client = Callable[[aiohttp.ClientSession, int], Awaitable[None]]
Prepare = Callable[[SQLiteDatabase], Awaitable[None]]


def main() -> None:
    measure(6)


def measure(seconds: float) -> dict[str, float]:
    """Print the latency of turns beside each kind of load, and return its medians as ratios to that without load."""
    print(f"\nturns of other users while {CLIENTS} clients …")
    with upstream(1, 0) as base_url:
        deleting = {
            "write turns": _write_turns,
            "write and delete turns": _delete_turns,
            "write and delete memories": _delete_memories,
        }
        ratios = _compare(base_url, _prepare_turns, deleting, seconds)
        return ratios | _compare(base_url, _prepare_memories, {"search long memories": _search}, seconds)


def _compare(base_url: str, prepare: Prepare, loads: Mapping[str, Client], seconds: float) -> dict[str, float]:
    medians: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_prepare(Path(folder, "chat.db"), prepare))
        with service(base_url, Path(folder)) as server:
            for name, client in [("do nothing", None), *loads.items()]:
                times, calls = asyncio.run(_measure(server.port, client, seconds))
                medians[name] = median = statistics.median(times)
                print(
                    f"  {name:26} {median / medians['do nothing']:6.2f} ×  p50 {median * 1e3:6.1f} ms"
                    f"  p99 {sorted(times)[int(len(times) * 0.99)] * 1e3:6.1f} ms  max {max(times) * 1e3:6.1f} ms"
                    f"  {len(times)} turns, {calls} calls of the load"
                )
    return {name: medians[name] / medians["do nothing"] for name in loads}


async def _prepare(path: Path, prepare: Prepare) -> None:
    async with SQLiteDatabase(f"sqlite:///{path}") as database:
        await prepare(database)


async def _prepare_turns(database: SQLiteDatabase) -> None:
    await database.write(partial(fill, user=UserId("bench"), start=0, count=TURNS))


async def _prepare_memories(database: SQLiteDatabase) -> None:
    memory, dice = MemorySQL(database, lambda: datetime.now(UTC)), random.Random(7)
    facts = [_text(dice, MEMORY_CHARS // 8) for _ in range(MEMORIES)]
    await asyncio.gather(*(memory.store(UserId("searched"), fact, 0.5) for fact in facts))


def _text(dice: random.Random, words: int) -> str:
    return " ".join(f"word{dice.randrange(500):03}" for _ in range(words))


async def _measure(port: int, client: Client | None, seconds: float) -> tuple[list[float], int]:
    times: list[float] = []
    calls = 0
    until = perf_counter() + seconds

    async def run(number: int) -> None:
        nonlocal calls
        assert client is not None
        while perf_counter() < until:
            await client(session, number)
            calls += 1

    async def chat(number: int) -> None:
        while perf_counter() < until:
            started = perf_counter()
            await _post(session, "chat/simple", {"user_id": f"other{number}", "message": "Hello, how are you?"})
            times.append(perf_counter() - started)
            await asyncio.sleep(0.02)

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}/api/") as session:
        await asyncio.gather(*map(chat, range(2)), *map(run, range(CLIENTS if client else 0)))
    return times, calls


async def _post(session: aiohttp.ClientSession, path: str, body: object) -> None:
    async with session.post(path, json=body) as response:
        response.raise_for_status()
        await response.read()


async def _delete(session: aiohttp.ClientSession, path: str) -> None:
    async with session.delete(path) as response:
        response.raise_for_status()
        await response.read()


async def _write_turns(session: aiohttp.ClientSession, number: int) -> None:
    await _post(session, "chat/simple", {"user_id": f"load{number}", "message": "Hello, how are you?", "memory": False})


async def _delete_turns(session: aiohttp.ClientSession, number: int) -> None:
    user = f"load{number}"
    await _post(session, "chat/simple", {"user_id": user, "message": "Hello, how are you?", "memory": False})
    await _delete(session, f"chat/history/{user}")


async def _delete_memories(session: aiohttp.ClientSession, number: int) -> None:
    user = f"deleted{number}"
    await _post(session, f"memories/{user}", {"fact": "likes tea"})
    await _delete(session, f"memories/{user}")


async def _search(session: aiohttp.ClientSession, number: int) -> None:
    dice = random.Random(number)
    query = {"q": _text(dice, QUERY_WORDS), "limit": "10"}
    async with session.get("memories/searched/search", params=query) as response:
        await response.read()  # may be 503: a search that takes more than a second fails


if __name__ == "__main__":
    main()
