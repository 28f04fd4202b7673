"""Copies of a database to another one: complete, all or nothing, and only between databases that are not in use."""

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from sqlalchemy import create_engine, select

from adapters.clock import utc_now
from adapters.credentials_sql import APIKeysSQL
from adapters.history_sql import HistorySQL
from adapters.memory_sql import MemorySQL
from adapters.sql import copying
from adapters.sql.copying import TABLES, CopiedRows, copy_database
from adapters.sql.database import Database
from adapters.sql.databases import database_at
from adapters.sql.tables import metadata
from application.ports.history import ReplyAddition, TurnBegin, TurnEnd
from application.ports.memory_outbox import OutboxCounts, RememberTurn
from domain.api_key import APIKey
from domain.conversation import ConversationId, Turn, TurnId, Usage, UserId
from domain.errors import TurnNotFound, Unusable
from domain.idempotency import IdempotencyKey
from domain.principal import Role
from entrypoints.cli.copy import InterruptibleCopy
from entrypoints.settings import Settings
from tests.harness.isolated_settings import isolate_settings
from tests.harness.postgres import URL_FILE, Postgres
from tests.integration.test_history_sqlite import flip, revise, schema

ADA, BOB, EVE = UserId("ada"), UserId("bob"), UserId("eve@example.org")
HOME, WORK = ConversationId("home"), ConversationId("work")
HOUR = timedelta(hours=1)

FACTS = {
    "My dog is called Bello.": "What are dogs called?",
    "Мою кошку зовут Мурка": "кошка",
    "我的狗叫贝罗。": "我的狗叫什么名字？",
}
"""Facts about Ada, and questions that find them."""

CONTENTS = CopiedRows(turns=136, conversations=4, users=3, memories=5, outbox=4)
"""What is in the database that `fill` leaves."""


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def begin(
    history: HistorySQL,
    user: UserId,
    conversation: ConversationId,
    message: str,
    key: IdempotencyKey | None = None,
    *,
    chosen_id: TurnId | None = None,
    retracts_from: TurnId | None = None,
) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user, conversation, datetime.now(UTC), message, chosen_id=chosen_id)
    return await history.begin(TurnBegin(turn, HOUR, key, retracts_from=retracts_from))


async def claim(history: HistorySQL) -> RememberTurn:
    [job] = await history.claim(1, HOUR)
    assert isinstance(job, RememberTurn)
    return job


async def fill(database: Database) -> None:
    """Store something of everything: see the comments. No table stays empty."""
    history, memory = HistorySQL(database), MemorySQL(database, utc_now)
    for number in range(125):  # more than two batches
        turn = await begin(history, BOB, HOME, f"message {number}")
        await history.finish(TurnEnd(turn.completed(f"reply {number} 🦊\n\t'\"\\", "stop", Usage(number, 2**33))))
    given_up = await begin(history, ADA, HOME, "to be given up")
    await history.finish(TurnEnd(given_up.completed("x" * 500_000, "length", Usage(1, 2, True)), remember=True))
    await history.give_up(await claim(history), unsettled_for=HOUR)
    claimed = await begin(history, BOB, WORK, "claimed", IdempotencyKey("name", "fingerprint"))
    await history.finish(TurnEnd(claimed.completed("", "stop"), remember=True))
    await claim(history)
    for number in range(3):
        due = await begin(history, EVE, HOME, f"forgotten {number}")
        await history.finish(TurnEnd(due.completed("Oui, ça va.", "stop"), remember=True))
    await history.begin_forgetting(EVE)
    after = await begin(history, EVE, HOME, "of the next epoch")
    await history.finish(TurnEnd(after.completed("again", "stop"), remember=True))
    in_parts = await begin(history, ADA, HOME, "in parts")
    running = await begin(history, ADA, HOME, "running")
    failed = await begin(history, ADA, HOME, "")
    await history.save_progress(
        {in_parts.id: ReplyAddition(0, "One 🦊 "), running.id: ReplyAddition(0, "and ")}, lease=HOUR
    )
    await history.save_progress(
        {in_parts.id: ReplyAddition(6, "two"), running.id: ReplyAddition(4, "running")}, lease=HOUR
    )
    await history.finish(TurnEnd(in_parts.completed("One 🦊 two, three", "stop"), remember=False))
    await history.finish(TurnEnd(failed.ended_by(TurnNotFound(), "partial")))
    retracted = await begin(history, BOB, WORK, "to be retracted")
    chosen = TurnId(str(uuid4()))
    instead = await begin(history, BOB, WORK, "instead", chosen_id=chosen, retracts_from=retracted.id)
    await history.finish(TurnEnd(retracted.completed("Hi", "stop"), remember=True))
    await history.finish(TurnEnd(instead.completed("Hi, there", "stop")))
    await history.set_title(BOB, WORK, "Trees 🌳")
    for user in (BOB, EVE, ADA):  # so that Ada's number is the greatest
        await memory.store(user, f"The name is {user}.", 1)
    await memory.forget_all(EVE)
    for fact in FACTS:
        await memory.store(ADA, fact, 0.1)
    keys, now = APIKeysSQL(database), datetime.now(UTC)
    await keys.create(APIKey("0" * 16, "digest", Role.SERVICE, now, "A 🦊", "acme:", now + HOUR))
    await keys.create(APIKey("1" * 16, "digest", Role.ADMIN, now))
    await keys.revoke("1" * 16, now)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with something of everything, closed."""

    async def fill_new(path: Path) -> None:
        async with database_at(url(path)) as database:
            await fill(database)

    path = tmp_path_factory.mktemp("filled") / "chat.db"
    asyncio.run(fill_new(path))
    return path


@pytest.fixture
def file(filled: Path, tmp_path: Path) -> Path:
    """The same database for each test."""
    path = tmp_path / "data" / "chat.db"
    path.parent.mkdir()
    shutil.copyfile(filled, path)
    return path


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    isolate_settings(monkeypatch, tmp_path)
    return Settings()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "chat.db"


@pytest.fixture
def server_url(postgres: Postgres) -> str:
    """The URL of a new PostgreSQL database without any tables."""
    return postgres.new_database()


def copied(source: str, target: str) -> CopiedRows:
    return copy_database(database_at(source), database_at(target))


def refusal(source: str, target: str) -> str:
    with pytest.raises(Unusable) as refused:
        copied(source, target)
    return str(refused.value)


def contents(database: str) -> Mapping[str, Sequence[Any]]:
    """Return the rows of all tables, without opening the database, which would release leases."""
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        rows = {
            each.name: sorted(map(tuple, connection.execute(select(each))), key=repr) for each in metadata.sorted_tables
        }
    engine.dispose()
    return rows


def is_empty(database: str) -> bool:
    return not any(contents(database).values())


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


# Complete copies


def test_all_tables_are_copied_those_first_to_which_others_refer() -> None:
    names = [each.name for each in TABLES]

    assert sorted(names) == sorted(metadata.tables)
    for each in metadata.tables.values():
        assert all(names.index(key.column.table.name) < names.index(each.name) for key in each.foreign_keys)


def test_a_copy_is_like_the_source(file: Path, target: Path) -> None:
    before, bytes_before = contents(url(file)), file.read_bytes()
    assert all(before.values())
    assert copied(url(file), url(target)) == CONTENTS

    assert contents(url(target)) == before
    assert schema(target) == schema(file)
    assert file.read_bytes() == bytes_before


@pytest.mark.server
def test_a_copy_to_postgresql_and_back_is_like_the_source(file: Path, server_url: str, target: Path) -> None:
    assert copied(url(file), server_url) == CONTENTS
    assert contents(server_url) == contents(url(file))

    assert copied(server_url, url(target)) == CONTENTS
    assert contents(url(target)) == contents(url(file))
    assert schema(target) == schema(file)


@pytest.mark.server
def test_a_copy_from_postgresql_to_postgresql_is_like_the_source(
    file: Path, server_url: str, postgres: Postgres
) -> None:
    other = postgres.new_database()
    copied(url(file), server_url)
    copied(server_url, other)

    assert contents(other) == contents(url(file))


async def assert_usable(database: Database) -> None:
    """Check what a service does with a copy of the database that `fill` leaves."""
    async with database:
        history, memory = HistorySQL(database), MemorySQL(database, utc_now)
        for fact, question in FACTS.items():
            assert (await memory.recall(ADA, question, 10))[0].memory.fact == fact
        for user in (ADA, UserId("new")):
            await memory.store(user, "Something new: zanzibar.", 0.5)
            assert len(await memory.recall(user, "zanzibar", 10)) == 1
        assert [one.fact for one in (await memory.page(ADA, 10, None)).items] == [
            "Something new: zanzibar.",
            *reversed(FACTS),
            "The name is ada.",
        ]
        page = await history.page(ADA, None, 10, None)
        assert [turn.reply for turn in page.items] == ["x" * 500_000, "One 🦊 two, three", "and running", "partial"]
        assert await history.counts() == OutboxCounts(pending=2, dead=1, forgetting=1)
        assert await HistorySQL(database, lambda: utc_now() + timedelta(hours=1)).finish_abandoned() == 1
        new = await begin(history, ADA, HOME, "new")
        await history.save_progress({new.id: ReplyAddition(0, "new reply")}, timedelta(minutes=1))
        replies = ["x" * 500_000, "One 🦊 two, three", "and running", "partial", "new reply"]
        assert replies == [turn.reply for turn in (await history.page(ADA, None, 10, None)).items]
        await memory.forget_all(ADA)
        assert await history.clear(ADA, None) == 5


def test_a_copy_is_used_like_the_source(file: Path, target: Path) -> None:
    copied(url(file), url(target))

    asyncio.run(assert_usable(database_at(url(target))))


@pytest.mark.server
def test_a_copy_in_postgresql_is_used_like_the_source(file: Path, server_url: str) -> None:
    copied(url(file), server_url)

    asyncio.run(assert_usable(database_at(server_url)))


@pytest.mark.server
def test_a_copy_from_postgresql_is_used_like_the_source(file: Path, server_url: str, target: Path) -> None:
    copied(url(file), server_url)
    copied(server_url, url(target))

    asyncio.run(assert_usable(database_at(url(target))))


@pytest.mark.server
def test_an_empty_database_can_be_copied_and_filled(server_url: str, target: Path) -> None:
    database_at(url(target)).migrate()
    assert copied(url(target), server_url) == CopiedRows(0, 0, 0, 0, 0)

    async def fill_it() -> None:
        async with database_at(server_url) as database:
            await fill(database)

    asyncio.run(fill_it())


@pytest.mark.parametrize("revision", ["0001", "0005"])
def test_an_empty_target_of_an_earlier_version_is_migrated(file: Path, target: Path, revision: str) -> None:
    database_at(url(target)).migrate()
    revise_down(target, revision)
    copied(url(file), url(target))

    assert contents(url(target)) == contents(url(file))


def test_turns_in_the_log_of_a_killed_service_are_copied(file: Path, target: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE turns SET reply = 'only in the log'")
        connection.commit()
        for suffix in ("", "-wal"):  # as they are while the connection is open
            Path(f"{killed}{suffix}").write_bytes(Path(f"{file}{suffix}").read_bytes())
    copied(url(killed), url(target))

    assert {turn[6] for turn in contents(url(target))["turns"]} == {"only in the log"}


# Refusals


def revise_down(path: Path, revision: str) -> None:
    revise(path, command.downgrade, revision)


async def test_a_source_that_is_in_use_is_not_copied(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "chat.db"
    async with database_at(url(source)):
        sentence = await asyncio.to_thread(refusal, url(source), url(target))

    assert sentence == f"Another process uses the database {source}; stop it first."
    assert not target.exists()


async def test_a_target_that_is_in_use_is_not_filled(tmp_path: Path, target: Path) -> None:
    await asyncio.to_thread(database_at(url(tmp_path / "chat.db")).migrate)
    async with database_at(url(target)):
        sentence = await asyncio.to_thread(refusal, url(tmp_path / "chat.db"), url(target))

    assert sentence == f"Another process uses the database {target}; stop it first."


@pytest.mark.server
async def test_a_database_in_postgresql_that_is_in_use_is_not_copied_or_filled(
    postgres_in_tmp_path: None, tmp_path: Path, target: Path
) -> None:
    server_url = (tmp_path / URL_FILE).read_text()
    await asyncio.to_thread(database_at(url(target)).migrate)
    async with database_at(server_url):
        sentences = [
            await asyncio.to_thread(refusal, *urls)
            for urls in ((server_url, url(tmp_path / "new.db")), (url(target), server_url))
        ]

    for sentence in sentences:
        assert re.fullmatch(r"Another process uses the database test_\d+ at /tmp/\S+\. Stop it first\.", sentence)


@pytest.mark.server
def test_a_database_in_postgresql_is_locked_while_it_is_copied_and_not_afterwards(
    file: Path, server_url: str, postgres: Postgres, target: Path
) -> None:
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = (hashtext('process') & 4294967295)"
    seen = []
    copy_database(
        database_at(url(file)), database_at(server_url), before_commit=lambda: seen.append(postgres.execute(locks))
    )
    copy_database(
        database_at(server_url), database_at(url(target)), before_commit=lambda: seen.append(postgres.execute(locks))
    )

    assert seen == [[(1,)], [(1,)]]
    assert postgres.execute(locks) == [(0,)]


NOT_EMPTY = {
    "users": "INSERT INTO users (id, last_seq) VALUES ('canary', 1)",
    "memory_owners": "INSERT INTO memory_owners (user_id, last_seq) VALUES ('canary', 1)",
    "memory_users": "INSERT INTO memory_users (user_id) VALUES ('canary')",
}


@pytest.mark.parametrize("table", NOT_EMPTY)
def test_a_target_that_is_not_empty_is_not_filled(file: Path, target: Path, table: str) -> None:
    database_at(url(target)).migrate()
    change(target, NOT_EMPTY[table])
    before = contents(url(target))

    assert refusal(url(file), url(target)) == (
        f"The database {target} is not empty (table {table}), and a copy overwrites nothing; choose an empty one."
    )
    assert contents(url(target)) == before


@pytest.mark.server
def test_a_second_copy_is_refused(file: Path, server_url: str) -> None:
    copied(url(file), server_url)

    assert "is not empty" in refusal(url(file), server_url)
    assert contents(server_url) == contents(url(file))


def test_a_source_of_an_earlier_version_is_not_copied(file: Path, target: Path) -> None:
    revise_down(file, "0005")
    before = file.read_bytes()

    assert refusal(url(file), url(target)) == (
        f"An earlier version of this service made the database {file}: run the command `migrate` with its URL as "
        "DATABASE_URL first."
    )
    assert file.read_bytes() == before
    assert not target.exists()


def test_a_source_of_a_newer_version_is_not_copied(file: Path, target: Path) -> None:
    change(file, "UPDATE alembic_version SET version_num = '9999'")

    assert refusal(url(file), url(target)) == (
        f"A newer version of this service, or another program, made the database {file} (schema 9999): "
        "use that version, restore a backup, or check DATABASE_URL."
    )


def test_a_missing_source_is_reported_and_not_created(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "missing" / "chat.db"

    assert refusal(url(source), url(target)) == f"There is no database of this service at {source}."
    assert not source.parent.exists()
    assert not target.exists()


@pytest.mark.server
def test_a_source_in_postgresql_without_our_tables_is_reported_and_stays_so(
    server_url: str, target: Path, postgres: Postgres
) -> None:
    assert refusal(server_url, url(target)).startswith("There is no database of this service at test_")
    assert postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", server_url) == []


def test_a_damaged_source_is_not_copied(file: Path, target: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'turns'").fetchall()
    flip(file, range((page - 1) * 4096, page * 4096))

    assert "is damaged" in refusal(url(file), url(target))
    assert not target.exists()


def test_a_folder_that_is_not_writable_is_reported(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    assert refusal(url(file), url(tmp_path / "taken" / "chat.db")).startswith("The folder ")


@pytest.mark.server
def test_a_server_that_cannot_be_reached_is_named_without_the_password(file: Path) -> None:
    sentence = refusal(url(file), "postgresql://user:canary@127.0.0.1:1/chat")

    assert sentence.startswith("The database chat at 127.0.0.1 cannot be used: ")
    assert "canary" not in sentence


@pytest.mark.server
def test_a_user_who_does_not_exist_is_reported(file: Path, server_url: str) -> None:
    wrong = re.sub(r"//[^@/]*@", "//nobody:canary@", server_url)

    assert refusal(url(file), wrong).endswith('FATAL:  role "nobody" does not exist.')


# All or nothing


def trigger(body: str, table: str = "memories") -> Sequence[str]:
    """Statements that let PostgreSQL run `body` before each row that is inserted."""
    return (
        f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$",
        f"CREATE TRIGGER fault BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fault()",
    )


END_SESSION = "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM 1"
FAULTS = {
    "RAISE EXCEPTION 'canary %', NEW.fact": r"cannot be used: PostgreSQL reports P0001 \(RaiseException\)\.$",
    "RAISE EXCEPTION USING ERRCODE = 'disk_full'": r"cannot be used: its disk is full\.$",
    END_SESSION: r"cannot be used: .*(shutting down|closed the connection unexpectedly)\.$",
    "NEW.fact = upper(NEW.fact)": r"^Nothing was copied: the rows of the table memories in the database test_\d+ at \S+"
    r" were not those of the database \S+ \(5 rows, then 5\)\.$",
}


@pytest.mark.server
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_in_the_middle_leaves_the_target_empty(
    file: Path, server_url: str, postgres: Postgres, fault: str
) -> None:
    database_at(server_url).migrate()
    for statement in trigger(fault):
        postgres.execute(statement, server_url)
    sentence = refusal(url(file), server_url)

    assert re.search(FAULTS[fault], sentence), sentence
    assert "canary" not in sentence
    assert is_empty(server_url)
    postgres.execute("DROP TRIGGER fault ON memories", server_url)
    assert copied(url(file), server_url) == CONTENTS


@pytest.mark.server
def test_a_failure_leaves_a_database_without_tables_as_it_was(file: Path, server_url: str, postgres: Postgres) -> None:
    change(file, "UPDATE memories SET fact = char(0)")
    refusal(url(file), server_url)

    assert postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", server_url) == []


@pytest.mark.server
def test_a_connection_that_breaks_during_the_commit_leaves_it_open_what_happened(
    file: Path, server_url: str, postgres: Postgres
) -> None:
    database_at(server_url).migrate()
    function, _ = trigger(END_SESSION)
    postgres.execute(function, server_url)
    postgres.execute(
        "CREATE CONSTRAINT TRIGGER fault AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION fault()",
        server_url,
    )

    assert "broke during the commit, so it is not known" in refusal(url(file), server_url)
    assert is_empty(server_url)


def test_rows_that_are_lost_are_noticed(file: Path, target: Path) -> None:
    database_at(url(target)).migrate()
    change(
        target,
        "CREATE TRIGGER fault AFTER INSERT ON turns BEGIN DELETE FROM turns WHERE user_message = 'message 7'; END",
    )

    assert refusal(url(file), url(target)).endswith(" (136 rows, then 135).")
    assert is_empty(url(target))


def test_an_error_before_the_commit_leaves_the_target_empty(file: Path, target: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_database(database_at(url(file)), database_at(url(target)), interrupt)

    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []
    assert copied(url(file), url(target)) == CONTENTS


class InterruptedInCommit(InterruptibleCopy):
    def _before_commit(self) -> None:
        super()._before_commit()
        self.interrupt()


def test_an_interruption_before_the_commit_leaves_the_target_empty(
    file: Path, target: Path, settings: Settings
) -> None:
    copy = InterruptibleCopy(settings, url(file), url(target))
    copy.interrupt()
    with pytest.raises(Unusable, match=r"^The copy was interrupted; nothing was copied\.$"):
        copy.run()

    assert copied(url(file), url(target)) == CONTENTS


def test_an_interruption_during_the_commit_is_ignored(file: Path, target: Path, settings: Settings) -> None:
    sentence = InterruptedInCommit(settings, url(file), url(target)).run()

    assert sentence == (
        f"Copied 136 turns, 4 conversations, 3 users, 5 memories and 4 outbox entries to the database {target}."
    )
    assert contents(url(target)) == contents(url(file))


NULS = {
    "UPDATE memories SET fact = 'canary' || char(0) WHERE user_id = 'bob'": r"place 4294967297 of the table memories",
    "UPDATE turns SET reply = 'canary' || char(0), id = 't7' WHERE user_message = 'message 7'": r"id 't7' of the table"
    " turns",
    "UPDATE reply_parts SET text = 'canary' || char(0)": "reply_number 1, start 0 of the table reply_parts",
}


@pytest.mark.server
@pytest.mark.parametrize("statement", NULS)
def test_text_that_postgresql_cannot_store_is_located_and_not_quoted(
    file: Path, server_url: str, statement: str
) -> None:
    change(file, statement)
    sentence = refusal(url(file), server_url)

    assert re.match(
        f"Nothing was copied: the row with {NULS[statement]} contains the character NUL, which the database test_",
        sentence,
    )
    assert "canary" not in sentence


def test_only_a_few_rows_are_in_memory_at_a_time(file: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inserted, insert = list[int](), copying._insert

    def recorded(*arguments: Any) -> None:
        inserted.append(len(arguments[-1]))
        insert(*arguments)

    monkeypatch.setattr(copying, "_insert", recorded)
    copied(url(file), url(target))

    assert max(inserted) == copying.BATCH_ROWS
