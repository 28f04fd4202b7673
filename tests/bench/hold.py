"""How many streams one process holds: as many as asked for, each for a minute, without an error.

python -m tests.bench.hold [STREAMS]
"""

import asyncio
import resource
import sys
from collections.abc import Callable

from tests.bench.load import Seen, load
from tests.bench.servers import service, upstream

CHUNKS, PAUSE_MS = 300, 200


def main() -> None:
    streams = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two sockets a stream in the service, one here
    with upstream(CHUNKS, PAUSE_MS) as base_url, service(base_url) as server:
        idle, before = server.memory(), server.cpu()
        seen, held = asyncio.run(_hold(server.port, streams, server.memory))
        print(f"{seen.turns} streams ended well, {seen.errors} did not; {seen.chunks} chunks")
        print(f"{(held - idle) / streams / 1e3:.0f} kB a stream while held")
        print(f"{(server.cpu() - before) / seen.chunks * 1e6:.0f} µs of processor time a chunk")


async def _hold(port: int, streams: int, memory: Callable[[], int]) -> tuple[Seen, int]:
    loading = asyncio.create_task(load(port, streams, 8))
    await asyncio.sleep(CHUNKS * PAUSE_MS / 1000 / 2)
    held = memory()
    return await loading, held


if __name__ == "__main__":
    main()
