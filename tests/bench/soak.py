"""A long run of the service, which measures whether anything grows with the number of turns.

    python -m tests.bench.soak [--turns N] [--minutes N] [--memory BACKEND] [--data DIRECTORY]

Users come and go: each sends messages, leaves some replies early, searches its memories, and is deleted with them
after a while, so that the amount of kept data is constant. Each user's turns are compared with those that it received.

Exits with status 1 if a turn failed or was lost, if resident memory grows by more than 5 MB per 10,000 turns after the
warm-up (least squares) or the run was too short to tell, or if the log of the database reaches 64 MB. With `--data`, a
run continues on earlier data.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time_ns

import anyio
import httpx2

from tests.bench.servers import Server, service, upstream
from tests.harness.exchange import Exchange, client_of, follow, history
from tests.harness.mem0_platform import KEY, Mem0Platform

BACKENDS = ("sql", "mem0", "mem0_platform", "in_memory", "none")
MAX_GROWTH_MB = 5.0
"""Megabytes per 10,000 turns."""
MAX_LOG_MB = 64.0
WARM_UP_TURNS = 2_000
"""Memory climbs meanwhile: caches fill, threads start, the allocator's arenas grow."""
MIN_TURNS = 3 * WARM_UP_TURNS
"""Of a shorter run, growth would be mistaken for noise, or noise for growth."""
TOKENS, PAUSE_MS = 20, 1

CLIENTS = 8
KEPT_USERS = 40
LEAVES_EVERY = 10
"""Every tenth reply is left after its first delta."""
MAX_PENDING = 50
"""Turns that wait to be remembered; clients pause while there are more."""
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Sample:
    """The sizes at one moment: in megabytes, or numbers."""

    turns: int
    memory: float
    database: float
    log: float
    vectors: float
    files: int
    threads: int

    def __str__(self) -> str:
        return (
            f"  {self.turns:8,} {self.memory:11.1f} {self.database:9.1f} {self.log:6.1f} {self.vectors:8.1f}"
            f" {self.files:6} {self.threads:8}"
        )


@dataclass
class Soak:
    """Clients of one service, and the measurements."""

    server: Server
    directory: Path
    turns: int
    until: float
    platform: Mem0Platform | None
    sent: int = 0
    errors: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    kept: deque[str] = field(default_factory=deque)
    names: Iterator[str] = field(default_factory=lambda: (f"{time_ns():x}-{n}" for n in itertools.count()))

    async def run(self) -> None:
        async with client_of(f"http://127.0.0.1:{self.server.port}") as client, asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample_forever())
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(self._chat(client))
            sampling.cancel()
            self.samples.append(self._sample())

    async def _chat(self, client: httpx2.AsyncClient) -> None:
        while self.sent < self.turns and monotonic() < self.until:
            await self._until_remembered(client)
            try:
                await self._be_a_user(client, next(self.names))
            except (httpx2.HTTPError, AssertionError, TimeoutError) as error:
                self.errors.append(repr(error))
                await asyncio.sleep(1)

    async def _be_a_user(self, client: httpx2.AsyncClient, user: str) -> None:
        exchanges = [Exchange(user, f"My {n}th hobby is collecting stamps from country {n}.") for n in range(20)]
        for number, exchange in enumerate(exchanges):
            started = monotonic()
            if number % LEAVES_EVERY == LEAVES_EVERY - 1:
                await self._leave_early(client, exchange)
            else:
                await follow(client, exchange)
                self.latencies.append(monotonic() - started)
            self.sent += 1
        await self._check(client, user, exchanges)
        (await client.get(f"/api/memories/{user}/search", params={"q": "hobby"})).read()
        self.kept.append(user)
        if len(self.kept) > KEPT_USERS:
            path = f"/api/chat/history/{self.kept.popleft()}"
            (await client.delete(path, params={"memories": "true"})).raise_for_status()
            self._tidy_platform()

    async def _leave_early(self, client: httpx2.AsyncClient, exchange: Exchange) -> None:
        body = {"user_id": exchange.user_id, "message": exchange.message}
        async with client.stream("POST", "/api/chat", json=body) as response:
            assert response.status_code == 200, await response.aread()
            exchange.turn_id = response.headers["X-Turn-ID"]
            await anext(response.aiter_bytes())

    async def _check(self, client: httpx2.AsyncClient, user: str, exchanges: Sequence[Exchange]) -> None:
        """Compare a user's history with what it was sent."""
        with anyio.fail_after(30):
            while (turns := await history(client, user)) and turns[-1]["status"] == "in_progress":
                await asyncio.sleep(0.05)
        if [turn["id"] for turn in turns] != [exchange.turn_id for exchange in exchanges]:
            self.errors.append("turns are missing, duplicated or out of order")
        for turn, exchange in zip(turns, exchanges, strict=False):
            left_early = exchange.last is None and turn["status"] in ("completed", "interrupted")
            if not left_early and (exchange.text, exchange.acknowledged) != (turn["assistant_response"], True):
                self.errors.append(f"a turn ended as {turn['status']}, reason {turn['reason']}: {exchange.last}")

    async def _until_remembered(self, client: httpx2.AsyncClient) -> None:
        while monotonic() < self.until + 60:
            work = (await client.get("/api/health/detailed")).json()["memory"]
            if (work["pending"] or 0) < MAX_PENDING:
                break
            await asyncio.sleep(0.2)

    def _tidy_platform(self) -> None:
        """Let the fake of the platform keep no more than the platform would."""
        if self.platform is not None:
            self.platform.requests.clear()
            for id in [id for id, memory in self.platform.memories.items() if memory.deleted is not None]:
                del self.platform.memories[id]

    async def _sample_forever(self) -> None:
        print("     turns   memory MB  database    log  vectors  files  threads")
        printed = -1
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            sample = self._sample()
            self.samples.append(sample)
            if printed < (printed := 10 * sample.turns // self.turns):
                print(sample, flush=True)

    def _sample(self) -> Sample:
        process = self.server.process
        return Sample(
            self.sent,
            self.server.memory() / 1e6,
            _megabytes(self.directory.glob("chat.db")),
            _megabytes(self.directory.glob("chat.db-wal")),
            _megabytes(self.directory.glob("mem0/**/*")),
            process.num_fds(),
            process.num_threads(),
        )


def _megabytes(files: Iterator[Path]) -> float:
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def growth(samples: Sequence[Sample]) -> float:
    """Return the growth of memory in MB per 10,000 turns, by least squares over the samples after the warm-up."""
    measured = [sample for sample in samples if sample.turns >= WARM_UP_TURNS]
    line = statistics.linear_regression([sample.turns for sample in measured], [sample.memory for sample in measured])
    return line.slope * 10_000


def report(soak: Soak) -> bool:
    """Print the measurements. Returns whether nothing failed and nothing grew too much."""
    samples, tenth = soak.samples, max(len(soak.latencies) // 10, 1)
    if samples[-1].turns < MIN_TURNS:
        print(f"  {samples[-1].turns} turns are too few to measure growth ({MIN_TURNS}): give it more minutes")
        return False
    slope, log = growth(samples), max(sample.log for sample in samples)
    first, last = (statistics.median(part) * 1000 for part in (soak.latencies[:tenth], soak.latencies[-tenth:]))
    print(f"  memory grows by {slope:.1f} MB per 10,000 turns (at most {MAX_GROWTH_MB:g})")
    print(f"  latency p50 {first:.0f} ms in the first tenth, {last:.0f} ms in the last")
    print(f"  {len(soak.errors)} turns failed or lost; the log reached {log:.1f} MB")
    for error in soak.errors[:10]:
        print(f"    {error}")
    return slope <= MAX_GROWTH_MB and log < MAX_LOG_MB and not soak.errors


@asynccontextmanager
async def _platform(memory: str) -> AsyncIterator[Mem0Platform | None]:
    if memory == "mem0_platform":
        async with Mem0Platform() as platform:
            yield platform
    else:
        yield None


@contextmanager
def _directory(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


async def soak(memory: str, turns: int, minutes: float, data: Path | None) -> bool:
    async with _platform(memory) as platform:
        environment = {"MEMORY_BACKEND": memory, "MEM0_INFER": "false", "MEM0_EMBEDDER": "local"}
        if memory == "in_memory":
            environment["HISTORY_BACKEND"] = "in_memory"
        if platform is not None:
            environment |= {"MEM0_HOST": platform.host, "MEM0_API_KEY": KEY}
        with (
            _directory(data) as directory,
            upstream(TOKENS, PAUSE_MS) as base_url,
            service(base_url, directory, ["tests.bench.soak_service"], **environment) as server,
        ):
            soaking = Soak(server, directory, turns, monotonic() + minutes * 60, platform)
            await soaking.run()
            return report(soaking)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--turns", type=int, default=20_000, help=f"turns to run, at least {MIN_TURNS} (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=60, help="minutes to run at most (default: %(default)s)")
    parser.add_argument("--memory", choices=BACKENDS, nargs="+", default=BACKENDS, help="backends of long-term memory")
    parser.add_argument("--data", type=Path, help="directory for the data (default: a temporary one)")
    options = parser.parse_args()
    if options.turns < MIN_TURNS:
        parser.error(f"--turns: at least {MIN_TURNS}")
    passed = True
    for memory in options.memory:
        print(f"\n{memory}", flush=True)
        passed &= asyncio.run(soak(memory, options.turns, options.minutes, options.data))
    sys.exit(not passed)


if __name__ == "__main__":
    main()
