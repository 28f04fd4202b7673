"""Deleted content that is left in the files of an SQLite database."""

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path

from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.sqlite.remnants import Remnants


def remnants(path: Path, words: Sequence[str]) -> list[tuple[str, str]]:
    """Return each file in the database's folder with each of the words that it contains.

    Another process reads the files: if this one closed them, the system would release SQLite's locks on them.
    """
    found = []
    for file in sorted(path.parent.iterdir()):
        content = subprocess.run(["cat", file], capture_output=True, check=True).stdout.lower()
        found += [(file.name, word) for word in words if word.encode() in content]
    return found


async def remnants_after_erasure(database: SQLiteDatabase, path: Path, words: Sequence[str]) -> list[tuple[str, str]]:
    """Wait until the database believes that it has removed all deleted content, and return what is left."""
    async with asyncio.timeout(60):
        while await database.read(Remnants.of) is not Remnants.NOWHERE:
            await asyncio.sleep(0.02)
    return await asyncio.to_thread(remnants, path, words)
