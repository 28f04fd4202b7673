"""Several workers: processes of the service that share a database and a scripted model.

async with running_cluster(forks, directory, workers=3, DATABASE_URL=url) as cluster:
    await cluster.pick().client.get("/readyz")
    await cluster.kill(cluster.pick())
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2

from tests.harness.exchange import NO_TLS, TIMEOUT
from tests.harness.forks import Fork, Forks
from tests.harness.scripted_faults import echoed
from tests.harness.scripted_upstream import ScriptedUpstream


class Worker:
    """One process, which is replaced by a new one when it was killed or stopped."""

    def __init__(self, name: str, forks: Forks, directory: Path, lease: float | None, timeout: float) -> None:
        self.name = name
        self._forks = forks
        self._directory = directory
        self._lease = lease
        self._timeout = timeout
        self._stack = AsyncExitStack()
        self.is_running = False

    async def start(self, **environment: str) -> None:
        self._environment = environment
        self._directory.mkdir(exist_ok=True)
        module = ("entrypoints.cli.main", "serve")
        if self._lease is not None:
            module = ("tests.harness.apps.short_lease_service", str(self._lease))
        service = self._forks.service(self._directory, *module, **environment)
        self.process: Fork = await self._stack.enter_async_context(service)
        limits = httpx2.Limits(max_connections=None)
        client = httpx2.AsyncClient(base_url=self.process.url, timeout=self._timeout, limits=limits, verify=NO_TLS)
        self.client = await self._stack.enter_async_context(client)
        async with asyncio.timeout(TIMEOUT):
            while (await self.client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)
        self.is_running = True

    async def restart(self, number: signal.Signals = signal.SIGKILL) -> Fork:
        """End the process with a signal and start another one, which listens on another port. Returns the former."""
        ended = self.process
        self.signal(number)
        await ended.wait()
        self.is_running = False
        await self.stop()
        await self.start(**self._environment)
        return ended

    async def stop(self) -> None:
        await self._stack.aclose()

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)


class Cluster:
    """The workers, and the model that all of them ask, which echoes the message in `deltas` deltas."""

    def __init__(self, workers: list[Worker], upstream: ScriptedUpstream, lease: float, deltas: int) -> None:
        self.workers = workers
        self.upstream = upstream
        self.lease = lease
        self.chance = random.Random(12)
        self._deltas = deltas

    def pick(self, *, other_than: Worker | None = None) -> Worker:
        """Return a worker at random, running and another one if possible."""
        running = [worker for worker in self.workers if worker.is_running] or self.workers
        return self.chance.choice([worker for worker in running if worker is not other_than] or running)

    def deltas_of(self, message: str) -> list[str]:
        """Return the deltas of the model's reply to a message."""
        return echoed(message, self._deltas)

    def reply_of(self, message: str) -> str:
        return "".join(self.deltas_of(message))


@asynccontextmanager
async def running_cluster(
    forks: Forks,
    directory: Path,
    *,
    workers: int,
    lease: float | None = None,
    timeout: float = TIMEOUT,
    deltas: int = 3,
    pause_ms: int = 0,
    **environment: str,
) -> AsyncIterator[Cluster]:
    """Start the workers, each with a directory of its own.

    `lease` is that of running turns in seconds, that of the service if absent. `timeout` is that of the clients, in
    seconds. The model sends `deltas` deltas, one every `pause_ms` milliseconds.
    """
    async with ScriptedUpstream() as upstream:
        names = [f"w{number}" for number in range(workers)]
        started = [Worker(name, forks, directory / name, lease, timeout) for name in names]
        common = {
            "OPENAI_BASE_URL": upstream.base_url,
            "OPENAI_MODEL": f"echo-{deltas}-{pause_ms}",
            "MEMORY_BACKEND": "none",
            "CONTEXT_TOKENS": "1000000",  # so that only the number of turns limits a prompt
            **environment,
        }
        try:
            await started[0].start(**common)  # alone, because it creates the tables
            await asyncio.gather(*(worker.start(**common) for worker in started[1:]))
            yield Cluster(started, upstream, 15 if lease is None else lease, deltas)
        finally:
            for worker in started:
                await worker.stop()
