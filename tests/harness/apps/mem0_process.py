"""A process that uses Mem0's library and prints its progress line by line.

python -m tests.harness.apps.mem0_process visit|hold|hang|exit DATA_DIR BASE_URL
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.memory_mem0 import MemoryMem0
from domain.conversation import UserId
from domain.errors import Unusable

ADA = UserId("ada")

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_violations: list[str] = []


def watch(data_dir: Path) -> None:
    """Record connections and look-ups beyond loopback, and files written outside of `data_dir`.

    The directory for temporary files is allowed because Python tests there whether it can write.
    """
    allowed = (data_dir, Path(tempfile.gettempdir()))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] != "127.0.0.1":
            _violations.append(f"connects to {arguments[1][0]}")
        elif event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1", None):
            _violations.append(f"looks up {arguments[0]!r}")
        elif event in ("os.mkdir", "os.rename") or _writes(event, arguments):
            _check_path(arguments[0], allowed)

    sys.addaudithook(hook)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "sqlite3.connect":
        return bool(arguments[0] != ":memory:")
    if event != "open":
        return False
    _, mode, flags = arguments
    return bool(flags & WRITE_FLAGS) if mode is None else any(letter in mode for letter in "wax+")


def _check_path(path: object, allowed: tuple[Path, ...]) -> None:
    if isinstance(path, str) and not any(Path(path).is_relative_to(one) for one in allowed) and path != "/dev/null":
        _violations.append(f"writes {path}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def visit(memory: MemoryMem0) -> None:
    """Call most methods, close, and print the violations."""
    async with memory:
        stored = await memory.store(ADA, "likes tea", 0.5)
        await memory.recall(ADA, "tea", 5)
        await memory.correct(ADA, stored.id, "likes green tea", None)
        await memory.forget_all(ADA)
    say(f"violations: {_violations}")


async def hold(memory: MemoryMem0) -> None:
    """Stay open until standard input ends."""
    async with memory:
        say("open")
        sys.stdin.read()
    say("closed")


async def hang(memory: MemoryMem0) -> None:
    """Close the memory while a call hangs."""
    await start_call(memory)
    await memory.close()
    say("closed")


async def exit_without_closing(memory: MemoryMem0) -> None:
    """End the process while a call hangs, without closing the memory."""
    await start_call(memory)


async def start_call(memory: MemoryMem0) -> None:
    """Open the memory, start a call, and cancel it on the first byte of input."""
    await memory.open()
    call = asyncio.create_task(memory.store(ADA, "likes tea", 0.5))
    say("calling")
    await asyncio.to_thread(sys.stdin.read, 1)
    call.cancel()


ACTIONS: Mapping[str, Callable[[MemoryMem0], Awaitable[None]]] = {
    "visit": visit,
    "hold": hold,
    "hang": hang,
    "exit": exit_without_closing,
}


WITH_HANGING_EMBEDDER = ("hang", "exit")


async def main(action: str, data_dir: Path, base_url: str) -> None:
    memory = MemoryMem0(
        data_dir=data_dir,
        api_key="key",
        base_url=base_url,
        model="extractor",
        now=lambda: datetime.now(UTC),
        embedding_timeout=3600,  # a call that hangs must not end by itself
        probe_timeout=2 if action in WITH_HANGING_EMBEDDER else 60,
    )
    say(f"imported: {[name for name in ('mem0', 'openai', 'qdrant_client') if name in sys.modules]}")
    try:
        await ACTIONS[action](memory)
    except Unusable as error:
        say(f"unusable: {error}")


if __name__ == "__main__":
    watch(Path(sys.argv[2]))
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
