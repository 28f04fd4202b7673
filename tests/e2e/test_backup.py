"""`smart-chatbot backup`: a backup of a service under load, restored after a kill as the documentation says."""

import asyncio
import shutil
import signal
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import pytest

from entrypoints.signals import send_signal
from tests.harness.commands import run
from tests.harness.exchange import TIMEOUT, Exchange, client_of, follow, history
from tests.harness.forks import Fork, Forks
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import clean_environment

USERS = [f"user{number}" for number in range(8)]


async def test_a_restored_backup_has_every_turn_acknowledged_before_it_began(forks: Forks, tmp_path: Path) -> None:
    backup, database = tmp_path / "backup.db", tmp_path / "data" / "chat.db"
    async with ScriptedUpstream() as upstream:
        settings = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "tokens-4-2"}
        async with forks.service(tmp_path, **settings) as service:
            await _chat_and_delete(service, "canary")
            before, status, output, after = await _back_up_under_load(forks, service, tmp_path, backup)
            service.signal(signal.SIGKILL)
            await service.wait()
        assert (status, output.partition(" turns to backup.db (")[0].split()[:2]) == (0, ["Backed", "up"]), output
        assert b"canary" not in await asyncio.to_thread(backup.read_bytes)
        await asyncio.to_thread(_restore, backup, database)
        async with forks.service(tmp_path, **settings) as service, client_of(service.url) as client:
            restored = {turn["id"]: turn for user_id in USERS for turn in await history(client, user_id)}
            assert len(await history(client, "canary")) == 0
            await follow(client, answered := Exchange("user0", "after the restore"))
    assert answered.acknowledged
    assert [exchange for exchange in before if exchange.turn_id not in restored] == []
    assert {restored[exchange.turn_id]["assistant_response"] for exchange in before} == {before[0].text}
    assert {turn["status"] for turn in restored.values()} <= {"completed", "interrupted", "failed"}
    assert len(after) > len(before)
    assert await asyncio.to_thread(_integrity, database) == "ok"


async def _chat_and_delete(service: Fork, user_id: str) -> None:
    async with client_of(service.url) as client:
        for number in range(5):
            await follow(client, Exchange(user_id, f"canary {number} " * 100))
        await client.delete(f"/api/chat/history/{user_id}")


async def _back_up_under_load(
    forks: Forks, service: Fork, directory: Path, backup: Path
) -> tuple[Sequence[Exchange], int, str, Sequence[Exchange]]:
    """Return the exchanges acknowledged before the backup began, its result, and those acknowledged by its end."""
    sent = list[Exchange]()

    async def chat(user_id: str) -> None:
        with suppress(httpx2.TransportError):
            for number in range(10_000):
                sent.append(Exchange(user_id, f"{user_id}, message {number}"))
                await follow(client, sent[-1])

    async with client_of(service.url) as client:
        chats = [asyncio.create_task(chat(user_id)) for user_id in USERS]
        async with asyncio.timeout(TIMEOUT):
            while len(before := [exchange for exchange in sent if exchange.acknowledged]) <= 20:
                await asyncio.sleep(0.05)
        status, output = await forks.run(directory, "backup", backup.name)
        after = [exchange for exchange in sent if exchange.acknowledged]
        for task in chats:
            task.cancel()
        await asyncio.wait(chats)
    return before, status, output, after


def _restore(backup: Path, database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(backup, database)


def _integrity(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_an_interrupted_backup_leaves_no_file(number: signal.Signals, tmp_path: Path) -> None:
    command, directory = (sys.executable, "-m", "entrypoints.cli"), tmp_path / "backups"
    assert (await run(*command, "migrate", directory=tmp_path))[0] == 0
    await asyncio.to_thread(_fill, tmp_path / "data" / "chat.db")
    directory.mkdir()
    process = await asyncio.create_subprocess_exec(
        *command, "backup", "backups/new.db", cwd=tmp_path, env=clean_environment(), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT):
        while not await asyncio.to_thread(_has_begun, directory):
            await asyncio.sleep(0.005)
        send_signal(process, number)
        _, errors = await process.communicate()

    assert (process.returncode, errors) == (3, b"The backup was interrupted; there is no new file.\n")
    assert list(directory.iterdir()) == []


def _has_begun(directory: Path) -> bool:
    return any(file.stat().st_size > 2**20 for file in directory.iterdir())


def _fill(database: Path) -> None:
    """Add 40 MB."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO users (id, last_seq) VALUES ('ann', 4000)")
        connection.execute(
            "INSERT INTO conversations (user_id, id, created_at, updated_at, last_seq, turns)"
            " VALUES ('ann', 'default', 0, 0, 4000, 4000)"
        )
        connection.execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4000)"
            " INSERT INTO turns (id, user_id, conversation_id, seq, started_at, user_message, reply, status)"
            " SELECT n, 'ann', 'default', n, 0, '', hex(zeroblob(5000)), 'completed' FROM n"
        )


async def test_a_backup_reports_that_it_cannot_be_made(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "taken.db").touch()
    (tmp_path / "mem0" / "qdrant").mkdir(parents=True)
    missing = await forks.run(tmp_path, "backup", "new.db")
    await forks.run(tmp_path, "migrate")
    runs = [
        missing,
        await forks.run(tmp_path, "backup", "new.db", HISTORY_BACKEND="in_memory", MEMORY_BACKEND="none"),
        await forks.run(tmp_path, "backup", "new.db", DATABASE_URL="postgresql://user:canary@host/db"),
        await forks.run(tmp_path, "backup", "new.db", DATA_DIR=".", MEMORY_BACKEND="mem0"),
        await forks.run(tmp_path, "backup", "taken.db"),
    ]

    assert [status for status, _ in runs] == [3] * 5
    assert [output.count("\n") for _, output in runs] == [1] * 5
    beginnings = (
        "There is no database ",
        "There is nothing to back up",
        "This copies SQLite files only. ",
        "Mem0's store in ",
        "The file ",
    )
    assert [output for (_, output), start in zip(runs, beginnings, strict=True) if not output.startswith(start)] == []
    assert not (tmp_path / "new.db").exists()


async def test_memories_in_a_store_of_their_own_are_pointed_out(forks: Forks, tmp_path: Path) -> None:
    await forks.run(tmp_path, "migrate")
    settings = {"MEMORY_BACKEND": "mem0_platform", "MEM0_API_KEY": "m0-key"}
    status, output = await forks.run(tmp_path, "backup", "new.db", **settings)

    assert status == 0
    assert output.startswith("Backed up 0 turns to new.db (")
    assert output.endswith("; memories are in Mem0's store, which needs a backup of its own.\n")
