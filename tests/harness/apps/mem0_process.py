"""A process that uses Mem0 and says what it does, line by line.

python -m tests.harness.apps.mem0_process visit|hold|hang|leave DATA_DIR BASE_URL
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from adapters.mem0_unusable import Mem0Unusable
from adapters.memory_mem0 import MemoryMem0
from domain.conversation import UserId

ADA = UserId("ada")

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_foreign: list[str] = []


def watch(data_dir: Path) -> None:
    """Note connections and look-ups beyond the loopback, and files that are written elsewhere.

    In the directory for temporary files Python tries whether it can write at all.
    """
    allowed = (data_dir, Path(tempfile.gettempdir()))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] != "127.0.0.1":
            _foreign.append(f"connects to {arguments[1][0]}")
        elif event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1", None):
            _foreign.append(f"looks up {arguments[0]!r}")
        elif event in ("os.mkdir", "os.rename") or _writes(event, arguments):
            _note_path(arguments[0], allowed)

    sys.addaudithook(hook)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "sqlite3.connect":
        return bool(arguments[0] != ":memory:")
    if event != "open":
        return False
    _, mode, flags = arguments
    return bool(flags & WRITING) if mode is None else any(letter in mode for letter in "wax+")


def _note_path(path: object, allowed: tuple[Path, ...]) -> None:
    if isinstance(path, str) and not any(Path(path).is_relative_to(one) for one in allowed) and path != "/dev/null":
        _foreign.append(f"writes {path}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def visit(memory: MemoryMem0) -> None:
    """Do a bit of everything, leave in order, and tell what was touched that is not ours."""
    await memory.open()
    stored = await memory.store(ADA, "likes tea", 0.5)
    await memory.recall(ADA, "tea", 5)
    await memory.correct(ADA, stored.id, "likes green tea", None)
    await memory.forget_all(ADA)
    await memory.close()
    say(f"foreign: {_foreign}")


async def hold(memory: MemoryMem0) -> None:
    """Open, and stay until somebody says so."""
    await memory.open()
    say("open")
    sys.stdin.read()
    await memory.close()
    say("closed")


async def hang(memory: MemoryMem0) -> None:
    """Leave in order while a call hangs."""
    await memory.open()
    call = asyncio.create_task(memory.store(ADA, "likes tea", 0.5))
    say("calling")
    await asyncio.to_thread(sys.stdin.read, 1)
    call.cancel()
    await memory.close()
    say("closed")


async def leave(memory: MemoryMem0) -> None:
    """Leave without a word while a call hangs."""
    await memory.open()
    call = asyncio.create_task(memory.store(ADA, "likes tea", 0.5))
    say("calling")
    await asyncio.to_thread(sys.stdin.read, 1)
    call.cancel()


DEEDS: Mapping[str, Callable[[MemoryMem0], Awaitable[None]]] = {
    "visit": visit,
    "hold": hold,
    "hang": hang,
    "leave": leave,
}


async def main(deed: str, data_dir: Path, base_url: str) -> None:
    memory = MemoryMem0(data_dir=data_dir, api_key="key", base_url=base_url, model="extractor")
    say(f"imported: {[name for name in ('mem0', 'openai', 'qdrant_client') if name in sys.modules]}")
    try:
        await DEEDS[deed](memory)
    except Mem0Unusable as refusal:
        say(f"refused: {refusal}")


if __name__ == "__main__":
    watch(Path(sys.argv[2]))
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
