"""A database that another program has locked."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_LOCKING_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def locked_by_another_process(path: Path) -> AsyncIterator[None]:
    """Keep the write lock of the file in another process. Creates the file if necessary."""
    pipe = asyncio.subprocess.PIPE
    locker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LOCKING_PROGRAM, str(path), stdin=pipe, stdout=pipe
    )
    assert locker.stdin is not None
    assert locker.stdout is not None
    try:
        assert await locker.stdout.readline() == b"locked\n"
        yield
    finally:
        locker.stdin.close()
        await locker.wait()
