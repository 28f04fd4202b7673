"""Turns and chunks on SQLite and on PostgreSQL with several workers: rates, CPU time, and the lag between workers.

    python -m tests.bench.stores [--seconds N] [--workers N ...]

The fake of the model, the readers, the workers and PostgreSQL share the machine: a rate says what it can do with all of
them, a CPU time what one of them needs. The server's CPU time is that of all its processes.
"""

import argparse
import asyncio
import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter

import httpx2
import psutil

from tests.bench.load import load
from tests.bench.servers import Server, service, upstream
from tests.harness.postgres import Postgres, postgres_server

ROUNDS, STREAMS = 3, 100
LAG_STREAMS = 20


@dataclass(frozen=True)
class Deployment:
    """Workers that share a database."""

    name: str
    workers: Sequence[Server]
    postgres: Postgres | None

    @property
    def ports(self) -> Sequence[int]:
        return [worker.port for worker in self.workers]

    def cpu(self) -> tuple[float, float]:
        """Return the CPU time of the workers and of the database server, in seconds."""
        server = 0.0
        if self.postgres is not None:
            main = psutil.Process(self.postgres.pid)
            ended = main.cpu_times()
            server = ended.children_user + ended.children_system
            for process in (main, *main.children(recursive=True)):
                used = process.cpu_times()
                server += used.user + used.system
        return sum(worker.cpu() for worker in self.workers), server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="seconds per round (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers on PostgreSQL")
    options = parser.parse_args()
    for title, tokens, pause in (("replies of one token", 1, 0), ("100 chunks, one every 20 ms", 100, 20)):
        print(f"\n{title}, {STREAMS} clients", flush=True)
        _compare(tokens, pause, options.workers, options.seconds)
    print(f"\nfrom a reader on the turn's worker to one on another, {LAG_STREAMS} turns of 100 chunks, one every 20 ms")
    with upstream(100, 20) as base_url, deployment(base_url, 2) as two:
        lags = sorted(asyncio.run(_lags(*two.ports)))
        p50, p99 = (lags[int(len(lags) * share)] * 1e3 for share in (0.5, 0.99))
        print(f"  p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {lags[-1] * 1e3:.0f} ms", flush=True)


@contextmanager
def deployment(base_url: str, workers: int) -> Iterator[Deployment]:
    """Start workers on a PostgreSQL server of their own, or one on SQLite if the number is 0."""
    with ExitStack() as stack:
        if not workers:
            yield Deployment("SQLite", [stack.enter_context(service(base_url))], None)
            return
        postgres = stack.enter_context(postgres_server(durable=True))
        url = postgres.new_database()
        servers = [stack.enter_context(service(base_url, DATABASE_URL=url)) for _ in range(workers)]
        yield Deployment(f"PostgreSQL, {workers} worker{'s' * (workers > 1)}", servers, postgres)


def _compare(tokens: int, pause: float, workers: Sequence[int], seconds: float) -> None:
    with ExitStack() as stack:
        base_url = stack.enter_context(upstream(tokens, pause))
        deployments = [stack.enter_context(deployment(base_url, number)) for number in (0, *workers)]
        rounds: dict[str, list[dict[str, float]]] = {one.name: [] for one in deployments}
        for _ in range(ROUNDS):  # alternate, so that changes in the speed of the machine affect all alike
            for one in deployments:
                rounds[one.name].append(_round(one, seconds))
    for name, of in rounds.items():
        figures = "  ".join(f"{key} {statistics.median(row[key] for row in of):8.1f}" for key in of[0])
        print(f"  {name:22} {figures}", flush=True)


def _round(deployment: Deployment, seconds: float) -> dict[str, float]:
    before, idle, started = deployment.cpu(), psutil.cpu_times(), perf_counter()
    result = asyncio.run(load(deployment.ports, STREAMS, seconds))
    passed, after, later = perf_counter() - started, deployment.cpu(), psutil.cpu_times()
    ours, servers = (after[part] - before[part] for part in (0, 1))
    return {
        "turns/s": result.turns / passed,
        "µs per turn": ours / max(result.turns, 1) * 1e6,
        "+ server": servers / max(result.turns, 1) * 1e6,
        "µs per chunk": ours / max(result.chunks, 1) * 1e6,
        "+ server's": servers / max(result.chunks, 1) * 1e6,
        "first chunk p50 ms": statistics.median(result.first or [0]) * 1e3,
        "idle CPU %": (later.idle - idle.idle) / passed / (psutil.cpu_count() or 1) * 100,
        "errors": result.errors,
    }


async def _lags(port: int, other: int) -> Sequence[float]:
    """Return by how many seconds each event arrives later at a reader on another worker."""
    lags: list[float] = []

    async def follow(number: int) -> None:
        async with (
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{other}", timeout=60) as far_client,
        ):
            body = {"user_id": f"lag{number}", "message": "Hello, how are you today?"}
            async with client.stream("POST", "/api/chat", json=body) as near:
                turn_id = near.headers["X-Turn-ID"]
                arrivals = asyncio.create_task(_arrivals(near))
                async with far_client.stream("GET", f"/api/chat/turns/{turn_id}/stream") as far:
                    joined = perf_counter()
                    far_arrivals = await _arrivals(far)
                near_arrivals = await arrivals
        assert near_arrivals.keys() == far_arrivals.keys()
        lags.extend(far_arrivals[event] - near for event, near in near_arrivals.items() if near > joined)

    await asyncio.gather(*map(follow, range(LAG_STREAMS)))
    return lags


async def _arrivals(response: httpx2.Response) -> dict[str, float]:
    """Return when each event of a stream arrived, by its id."""
    arrivals: dict[str, float] = {}
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            arrivals[line] = perf_counter()
        elif line.startswith("data: {"):
            assert "error" not in json.loads(line.removeprefix("data: ")), line
    return arrivals


if __name__ == "__main__":
    main()
