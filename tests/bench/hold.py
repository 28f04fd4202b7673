"""How many streams one process holds: as many as asked for, each for a minute, without an error.

python -m tests.bench.hold [STREAMS]
"""

import asyncio
import resource
import sys
from collections.abc import Callable

from tests.bench.load import Seen, load
from tests.bench.servers import service, upstream

STREAMS = 1_000
CHUNKS, PAUSE_MS = 300, 200


def main() -> None:
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS)


def measure(streams: int) -> float:
    """Print how so many streams fare for a minute; return the kB of memory that each takes."""
    print(f"\nheld at once, {PAUSE_MS} ms a chunk, {streams} streams")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two sockets a stream in the service, one here
    with upstream(CHUNKS, PAUSE_MS) as base_url, service(base_url) as server:
        idle, before = server.memory(), server.cpu()
        seen, held = asyncio.run(_hold(server.port, streams, server.memory))
        size = (held - idle) / streams / 1e3
        cost = (server.cpu() - before) / max(seen.chunks, 1) * 1e6
    print(f"  {seen.turns} ended well, {seen.errors} did not; {size:.0f} kB a stream, {cost:.0f} µs a chunk")
    return size


async def _hold(port: int, streams: int, memory: Callable[[], int]) -> tuple[Seen, int]:
    loading = asyncio.create_task(load(port, streams, 8))
    await asyncio.sleep(CHUNKS * PAUSE_MS / 1000 / 2)
    held = memory()
    return await loading, held


if __name__ == "__main__":
    main()
