"""`smart-chatbot keys`: what it prints and stores, and that running workers see each change at once."""

import asyncio
import re
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from adapters.clock import utc_now
from adapters.credentials_sql import APIKeysSQL
from adapters.sql.database import Database
from adapters.sql.databases import database_at
from application.authentication import Authenticate
from application.ports.history import HistoryLost, HistoryUnavailable
from application.ports.turn_observer import Event, TurnObserver
from domain.errors import Unauthenticated
from domain.principal import Principal, Role
from tests.harness.commands import run
from tests.harness.postgres import Postgres

COMMAND = (sys.executable, "-m", "entrypoints.cli", "keys")
ROOT = Path(__file__).parents[2]
KEY = re.compile(r"ck_[0-9a-f]{16}_[0-9a-f]{64}\n")
ADDRESS = "192.0.2.1"


class NoObserver(TurnObserver):
    def observe(self, event: Event) -> None:
        pass


async def keys(directory: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    return await run(*COMMAND, *arguments, directory=directory, PYTHONPATH=str(ROOT), **environment)


async def created(directory: Path, *arguments: str, **environment: str) -> str:
    """Create a key and return it."""
    settings = {"AUTH_MODE": "api_key", **environment}
    status, output, errors = await keys(directory, "create", *arguments, **settings)
    assert status == 0, errors
    assert KEY.fullmatch(output)
    return output.strip()


@asynccontextmanager
async def workers(url: str, count: int) -> AsyncIterator[list[Authenticate]]:
    """Open the database as often, as workers do."""
    async with AsyncExitStack() as stack:
        databases: list[Database] = [await stack.enter_async_context(database_at(url)) for _ in range(count)]
        yield [Authenticate(APIKeysSQL(database), None, NoObserver(), utc_now) for database in databases]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/chat.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


async def test_keys_are_created_and_revoked_while_workers_run(url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": url}
    async with workers(url, 2 if url.startswith("postgres") else 1) as authenticates:
        old = await created(tmp_path, "--role", "service", "--prefix", "acme:", **settings)
        new = await created(tmp_path, "--role", "admin", **settings)
        for authenticate in authenticates:
            assert await authenticate(old, ADDRESS) == Principal(Role.SERVICE, old[3:19], "acme:")
            assert await authenticate(new, ADDRESS) == Principal(Role.ADMIN, new[3:19])

        assert await keys(tmp_path, "revoke", old[3:19], **settings) == (0, f"Revoked key {old[3:19]}.\n", "")

        for authenticate in authenticates:
            with pytest.raises(Unauthenticated):
                await authenticate(old, ADDRESS)
            assert (await authenticate(new, ADDRESS)).id == new[3:19]
    with pytest.raises(HistoryUnavailable):  # closed
        await authenticates[0](new, ADDRESS)


@pytest.mark.parametrize("replaced", [False, True])
async def test_no_key_of_a_file_that_was_removed_or_replaced_is_accepted(replaced: bool, tmp_path: Path) -> None:
    """The command revokes keys in the file that is there, which is not the one that the service has open."""
    path = tmp_path / "data" / "chat.db"
    key = await created(tmp_path, "--role", "service")
    async with workers(f"sqlite:///{path}", 1) as [authenticate]:
        await authenticate(key, ADDRESS)
        path.rename(path.with_name("away.db"))
        if replaced:
            shutil.copy(path.with_name("away.db"), path)
        with pytest.raises(HistoryLost, match="unavailable") as lost:
            await authenticate(key, ADDRESS)
        path.with_name("away.db").rename(path)
        assert await authenticate(key, ADDRESS) == Principal(Role.SERVICE, key[3:19])

    assert f"{path} was removed or replaced" in lost.value.explanation


async def test_a_key_expires(tmp_path: Path) -> None:
    key = await created(tmp_path, "--role", "service", "--expires", "1s")
    await asyncio.sleep(1.1)
    async with workers(f"sqlite:///{tmp_path}/data/chat.db", 1) as [authenticate]:
        with pytest.raises(Unauthenticated):
            await authenticate(key, ADDRESS)


async def test_the_secret_is_shown_once_and_stored_nowhere(tmp_path: Path) -> None:
    key = await created(tmp_path, "--role", "service", "--name", "crm", "--expires", "90d")
    status, output, _ = await keys(tmp_path, "list", AUTH_MODE="api_key")

    heading, line = output.splitlines()
    assert status == 0
    assert heading.split() == ["ID", "ROLE", "STATE", "CREATED", "EXPIRES", "PREFIX", "NAME"]
    assert line.split()[:3] == [key[3:19], "service", "active"]
    assert line.endswith("  crm")
    secret = key.rpartition("_")[2]
    assert secret not in output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


async def test_the_command_names_the_database_that_it_uses(tmp_path: Path) -> None:
    """Run in another directory than the service, it uses another one, in which it can revoke nothing."""
    _, output, errors = await keys(tmp_path, "create", "--role", "service", AUTH_MODE="api_key")
    database = tmp_path / "data" / "chat.db"

    assert f"Created key {output[3:19]} in the database {database}. " in errors
    (tmp_path / "elsewhere").mkdir()
    status, _, errors = await keys(tmp_path / "elsewhere", "revoke", output[3:19])
    assert status == 3
    assert f"There is no key with this id in the database {tmp_path}/elsewhere/data/chat.db; " in errors


async def test_without_a_database_keys_have_one_of_their_own(tmp_path: Path) -> None:
    settings = {"HISTORY_BACKEND": "in_memory", "MEMORY_BACKEND": "none"}
    await created(tmp_path, "--role", "service", **settings)

    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["keys.db", "keys.db.lock"]


async def test_a_key_that_is_not_accepted_yet_is_pointed_out(tmp_path: Path) -> None:
    status, output, errors = await keys(tmp_path, "create", "--role", "service")

    assert status == 0
    assert KEY.fullmatch(output)
    assert errors.endswith(
        "warning: With the settings of this command (AUTH_MODE: none) no API key is accepted: unless the service has "
        "others, set AUTH_MODE=api_key and restart it.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["create"], 2, "the following arguments are required: --role"),
        (["create", "--role", "user"], 2, "invalid choice: 'user'"),
        (["create", "--role", "service", "--expires", "soon"], 2, "must be a number of days"),
        (["create", "--role", "service", "--expires", "0d"], 2, "must be a number of days"),
        (["create", "--role", "service", "--prefix", "a/b"], 3, "--prefix: no id of a user begins like this"),
        (["create", "--role", "admin", "--prefix", "acme:"], 3, "--prefix: only a service can be limited"),
        (["create", "--role", "service", "--name", "a\nb"], 3, "--name: must be at most 100 printable characters"),
        (["revoke", "0000000000000000"], 3, "There is no key with this id in the database "),
        (["revoke", "ck_0000000000000000_canary"], 3, "A key is revoked by its id"),
        ([], 2, "the following arguments are required: ACTION"),
    ],
)
async def test_a_wrong_command_is_refused(arguments: list[str], status: int, sentence: str, tmp_path: Path) -> None:
    found, output, errors = await keys(tmp_path, *arguments)

    assert (found, output) == (status, "")
    assert sentence in errors
    assert "Traceback" not in errors
    assert "canary" not in errors


async def test_a_database_that_cannot_be_reached_is_reported_in_one_line(tmp_path: Path) -> None:
    url = "postgresql://chat:canary@127.0.0.1:1/chat"
    status, output, errors = await keys(tmp_path, "list", DATABASE_URL=url)

    assert (status, output) == (3, "")
    assert len(errors.splitlines()) == 1
    assert "canary" not in errors
