"""A process with a memory on Mem0's platform; it exits on the first line of input, even while a call is running.

python -m tests.harness.apps.hosted_memory open|build HOST DIRECTORY

`open` opens the adapter. `build` makes mem0's own client, whose constructor waits for a ping. Prints each host that
anything looks up or connects to.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.daemon_threads import run_in_daemon_thread
from adapters.mem0_import import import_mem0
from adapters.memory_mem0_platform import MemoryMem0Platform
from tests.harness.mem0_platform import KEY


def print_hosts(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        print("host", arguments[0], flush=True)
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        print("host", arguments[1][0], flush=True)


async def main(action: str, host: str, directory: Path) -> None:
    if action == "open":
        memory = MemoryMem0Platform(
            api_key=KEY, host=host, data_dir=directory, now=lambda: datetime.now(UTC), connect_timeout=60
        )
        starting = asyncio.create_task(memory.open())
    else:
        mem0 = import_mem0(directory)
        starting = asyncio.create_task(
            run_in_daemon_thread(lambda: mem0.AsyncMemoryClient(api_key=KEY, host=host), name="mem0")
        )
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.readline()
    print("finished" if starting.done() else "still waiting", flush=True)


if __name__ == "__main__":
    sys.addaudithook(print_hosts)
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
