"""A process that has Mem0's hosted service for a memory, and ends on the first line it reads, whatever is under way.

python -m tests.harness.apps.hosted_memory open | build  <host> <folder>

`open` opens the adapter; `build` makes mem0's client as it comes, whose constructor waits for an answer. Prints every
host that something tried to look up or connect to.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from adapters.daemon_threads import in_daemon_thread
from adapters.mem0_import import import_mem0
from adapters.memory_mem0_platform import MemoryMem0Platform
from tests.harness.mem0_platform import KEY


def tell(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        print("host", arguments[0], flush=True)
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        print("host", arguments[1][0], flush=True)


async def main(what: str, host: str, folder: Path) -> None:
    if what == "open":
        memory = MemoryMem0Platform(api_key=KEY, host=host, data_dir=folder, connect_timeout=60)
        starting = asyncio.create_task(memory.open())
    else:
        mem0 = import_mem0(folder)
        starting = asyncio.create_task(in_daemon_thread(lambda: mem0.AsyncMemoryClient(api_key=KEY, host=host)))
    end = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(end), sys.stdin)
    await end.readline()
    print("waited" if not starting.done() else "went on", flush=True)


if __name__ == "__main__":
    sys.addaudithook(tell)
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
