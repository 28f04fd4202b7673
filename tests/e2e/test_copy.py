"""`smart-chatbot copy`: a service moves from SQLite to PostgreSQL, and what the command prints."""

import asyncio
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from entrypoints.signals import send_signal
from tests.e2e.test_backup import _fill
from tests.harness.exchange import TIMEOUT, Exchange, client_of, follow, history
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import clean_environment

COMMAND = (sys.executable, "-m", "entrypoints.cli")
INTERRUPTED = "The copy was interrupted; nothing was copied.\n"


async def test_a_service_moves_to_postgresql_and_back(forks: Forks, postgres: Postgres, tmp_path: Path) -> None:
    server_url = await asyncio.to_thread(postgres.new_database)
    async with ScriptedUpstream() as upstream:
        settings = {"OPENAI_BASE_URL": upstream.base_url}
        async with forks.service(tmp_path, **settings) as service, client_of(service.url) as client:
            for number in range(5):
                await follow(client, Exchange(f"user{number % 2}", f"message {number} 🦊"))
            await client.post("/api/memories/user0", json={"fact": "My dog is called Bello."})
            expected = [await history(client, f"user{number}") for number in range(2)]
            listed = (await client.get("/api/chat/conversations/user0")).json()
            service.signal(signal.SIGTERM)
            assert await service.wait() == 0

        status, output = await forks.run(tmp_path, "copy", "--to", server_url)
        assert status == 0, output
        assert output.startswith(
            "Copied 5 turns, 2 conversations, 2 users, 1 memory and 0 outbox entries to the database"
        )

        on_postgres = settings | {"DATABASE_URL": server_url}
        async with forks.service(tmp_path, **on_postgres) as service, client_of(service.url) as client:
            assert [await history(client, f"user{number}") for number in range(2)] == expected
            assert (await client.get("/api/chat/conversations/user0")).json() == listed
            await follow(client, Exchange("user0", "What are dogs called?"))
            assert "Bello" in upstream.requests[-1].body["messages"][-1]["content"]
            assert len(await history(client, "user0")) == 4
            for user in ("user0", "user1"):
                stored = await client.post(f"/api/memories/{user}", json={"fact": "The cat is called Felix."})
                assert stored.status_code == 201
            service.signal(signal.SIGTERM)
            assert await service.wait() == 0

        back = {"DATABASE_URL": server_url}
        status, output = await forks.run(tmp_path, "copy", "--to", f"sqlite:///{tmp_path / 'back.db'}", **back)
        assert (status, output.split(" to ")[0]) == (
            0,
            "Copied 6 turns, 2 conversations, 2 users, 3 memories and 0 outbox entries",
        )


async def interrupted(number: signal.Signals, directory: Path, target: str, has_begun: Callable[[], bool]) -> str:
    """Copy the database in `directory`, send a signal when `has_begun`, and return what the command prints."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "copy", "--to", target, cwd=directory, env=clean_environment(), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            while not await asyncio.to_thread(has_begun):
                await asyncio.sleep(0.005)
            send_signal(process, number)
            _, errors = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 3, errors
    return errors.decode()


@pytest.fixture
async def source(forks: Forks, tmp_path: Path) -> str:
    """The URL of a database of 40 MB."""
    assert (await forks.run(tmp_path, "migrate"))[0] == 0
    await asyncio.to_thread(_fill, tmp_path / "data" / "chat.db")
    return f"sqlite:///{tmp_path / 'data' / 'chat.db'}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_interrupted_copy_leaves_the_target_empty(
    forks: Forks, number: signal.Signals, source: str, tmp_path: Path
) -> None:
    log = tmp_path / "new.db-wal"
    target = f"sqlite:///{tmp_path / 'new.db'}"

    def has_begun() -> bool:
        return log.exists() and log.stat().st_size > 2**20

    assert await interrupted(number, tmp_path, target, has_begun) == INTERRUPTED
    status, output = await forks.run(tmp_path, "copy", "--to", target)
    assert (status, output.partition(" turns")[0]) == (0, "Copied 4,000")


@pytest.mark.parametrize("waiting", [False, True], ids=["while rows are written", "while the server works"])
async def test_an_interrupted_copy_to_postgresql_leaves_the_target_empty(
    forks: Forks, postgres: Postgres, source: str, tmp_path: Path, waiting: bool
) -> None:
    target = await asyncio.to_thread(postgres.new_database)
    assert (await forks.run(tmp_path, "migrate", DATABASE_URL=target))[0] == 0
    for statement in (
        "CREATE FUNCTION delay() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({2 if waiting else 0.01}); RETURN NEW; END $$",
        "CREATE TRIGGER delay BEFORE INSERT ON turns FOR EACH ROW EXECUTE FUNCTION delay()",
    ):
        await asyncio.to_thread(postgres.execute, statement, target)

    def is_at_work() -> bool:
        return bool(postgres.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    assert await interrupted(signal.SIGTERM, tmp_path, target, is_at_work) == INTERRUPTED
    async with asyncio.timeout(TIMEOUT):
        while await asyncio.to_thread(is_at_work):  # it notices the end of the command after its statement
            await asyncio.sleep(0.05)
    await asyncio.to_thread(postgres.execute, "DROP TRIGGER delay ON turns", target)
    status, output = await forks.run(tmp_path, "copy", "--to", target)
    assert (status, output.partition(" turns")[0]) == (0, "Copied 4,000")


async def test_a_copy_reports_that_it_cannot_be_made_without_passwords(forks: Forks, tmp_path: Path) -> None:
    await forks.run(tmp_path, "migrate")
    secret = "postgresql://user:canary@127.0.0.1:1/chat"
    refused = {
        r"The databases to copy from and to are the same\.": ["--from", "sqlite:///data/chat.db"],
        r"There is no database of this service at \S+/missing.db\.": ["--from", "sqlite:///missing.db"],
        r"The database chat at 127\.0\.0\.1 cannot be used: .*": ["--to", secret],
        r"The database chat at 127\.0\.0\.1 cannot be used: .*refused.*": ["--from", secret],
        r"--to: must be postgresql://user:password@host/database, .*": ["--to", "postgresql://user:canary@127.0.0.1"],
        r"--from: must be sqlite:/// .*": ["--from", "mysql://user:canary@host/chat"],
        r"--to: must be sqlite:/// .*": ["--to", ""],
    }
    for pattern, arguments in refused.items():
        status, output = await forks.run(tmp_path, "copy", *arguments)
        assert status == 3, output
        assert re.fullmatch(pattern + "\n", output), output
        assert "canary" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one URL, as --from URL or --to URL"),
        (["postgresql://user:canary@host/chat"], "there is an unexpected argument"),
        (["--to", "sqlite:///a", "canary"], "there is an unexpected argument"),
    ],
)
async def test_a_copy_without_options_is_a_usage_error_that_quotes_nothing(
    forks: Forks, tmp_path: Path, arguments: list[str], message: str
) -> None:
    status, output = await forks.run(tmp_path, "copy", *arguments)

    assert status == 2
    assert output.startswith(f"smart-chatbot copy: {message}; see: ")
    assert "canary" not in output
