"""Resources held by a service, to compare before and after a fault, and the growth of its memory."""

import asyncio
import os
import threading
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from tests.harness.servers import Service


@dataclass(frozen=True)
class Holdings:
    """Counts of held resources. Tasks and file descriptors are those of the whole process, including the test's."""

    tasks: int
    files: int
    running_turns: int
    leases: int
    readers: int


async def holdings(service: Service) -> Holdings:
    return Holdings(
        tasks=len(asyncio.all_tasks()),
        files=len(await asyncio.to_thread(os.listdir, "/proc/self/fd")),
        running_turns=len(service.container.turn_runner()),
        leases=len(service.container.leases()._busy),
        readers=sum(log.readers for log in service.container.live_turns()._logs._logs.values()),
    )


async def assert_no_more_than(before: Holdings, service: Service) -> None:
    """Poll for up to 15 seconds until no count exceeds `before`: idle connections stay open for some seconds."""
    for _ in range(300):
        now = await holdings(service)
        if all(after <= allowed for after, allowed in zip(astuple(now), astuple(before), strict=True)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{now} exceeds {before}: {[str(task.get_coro()) for task in asyncio.all_tasks()]}")


async def assert_no_turn_left(service: Service) -> None:
    """Poll for up to 6 seconds until there are no running turns, leases or readers."""
    for _ in range(300):
        now = await holdings(service)
        if now.running_turns == now.leases == now.readers == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"left over: {now}")


class PeakMemory:
    """Samples the resident memory of the process; `growth` is the peak minus the initial value, in bytes."""

    async def __aenter__(self) -> Self:
        self._stop = threading.Event()
        self._before = self._peak = await asyncio.to_thread(_resident)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    @property
    def growth(self) -> int:
        return self._peak - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
