"""Opens many streams at once, each for a minute, and counts errors and memory.

python -m tests.bench.hold [STREAMS]
"""

import asyncio
import resource
import sys
from collections.abc import Callable

from tests.bench.load import Result, load
from tests.bench.servers import service, upstream

STREAMS = 1_000
CHUNKS, PAUSE_MS = 300, 200


def main() -> None:
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS)


def measure(streams: int) -> float:
    """Print the outcome of `streams` concurrent streams, and return the memory per stream in kB."""
    print(f"\n{streams} streams open at once, one chunk every {PAUSE_MS} ms")
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a stream takes two sockets in the service and one here
    with upstream(CHUNKS, PAUSE_MS) as base_url, service(base_url) as server:
        idle, before = server.memory(), server.cpu()
        result, peak = asyncio.run(_hold(server.port, streams, server.memory))
        size = (peak - idle) / streams / 1e3
        cost = (server.cpu() - before) / max(result.chunks, 1) * 1e6
    print(f"  {result.turns} completed, {result.errors} failed; {size:.0f} kB per stream, {cost:.0f} µs per chunk")
    return size


async def _hold(port: int, streams: int, memory: Callable[[], int]) -> tuple[Result, int]:
    loading = asyncio.create_task(load([port], streams, 8))
    await asyncio.sleep(CHUNKS * PAUSE_MS / 1000 / 2)
    half_way = memory()
    return await loading, half_way


if __name__ == "__main__":
    main()
