"""Deleted content leaves the files of an SQLite database: in the background, soon, and whatever is in the way."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine
from structlog.testing import capture_logs

from adapters.history_sql import HistorySQL
from adapters.memory_sql import MemorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.sqlite.engine import driver, make_engine
from adapters.sql.sqlite.erasure import Erasure, Schedule
from adapters.sql.sqlite.log import WriteAheadLog
from adapters.sql.sqlite.remnants import Remnants, mark_rows_deleted
from application.ports.history import ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from tests.harness.full_disk import files_limited_to
from tests.harness.remnants import remnants, remnants_after_erasure
from tests.harness.sqlite_trace import traced_statements

ADA, CANARY = UserId("ada"), UserId("canary")
LEASE = timedelta(seconds=15)
SOON = Schedule(quiet_period=0.05, max_delay=0.2, retry_interval=0.1)
NEVER = Schedule(quiet_period=3600, max_delay=3600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chat.db"


@asynccontextmanager
async def opened(path: Path, schedule: Schedule = SOON, **options: Any) -> AsyncIterator[SQLiteDatabase]:
    async with SQLiteDatabase(f"sqlite:///{path}", erasure_schedule=schedule, **options) as database:
        yield database


def new_turn(message: str = "Hello", user_id: UserId = ADA) -> TurnBegin:
    return TurnBegin(Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message), LEASE)


# What is left


async def test_no_file_contains_deleted_text_or_ids(path: Path) -> None:
    """The rows of the user grow among those of others, so that SQLite moves them from page to page."""
    async with opened(path) as database:
        history = HistorySQL(database)

        async def converse(n: int) -> None:
            name = "canary" if n % 3 == 0 else f"user{n % 20}"
            begin = new_turn(f"{'canary' if n % 3 == 0 else 'other'} " * (1, 5, 30, 100, 800)[n % 5], UserId(name))
            await history.begin(begin)
            reply = ""
            for length in (3, 20, 90, 600)[: n % 4]:
                await history.save_progress({begin.turn.id: ReplyAddition(len(reply), f"{name} " * length)}, LEASE)
                reply += f"{name} " * length
            if n % 9:
                await history.finish(TurnEnd(begin.turn.completed(reply + f"{name} " * (n % 700), "stop")))

        for start in range(0, 600, 30):
            await asyncio.gather(*map(converse, range(start, start + 30)))
        assert await history.clear(CANARY, None) == 200

        assert await remnants_after_erasure(database, path, ["canary"]) == []


async def test_no_file_contains_words_deleted_while_others_are_stored(path: Path) -> None:
    async with opened(path, Schedule(quiet_period=0, max_delay=0, max_duty=1)) as database:
        memory = MemorySQL(database, lambda: datetime.now(UTC))
        for round in range(20):
            doomed = [await memory.store(CANARY, f"quablorping zyzugness{round} and tea", 0.5) for _ in range(3)]
            kept = [memory.store(ADA, f"likes tea number{round} of {n}", 0.5) for n in range(20)]
            await asyncio.gather(*kept, *(memory.forget(CANARY, one.id) for one in doomed))

        assert await remnants_after_erasure(database, path, ["canary", "blorping", "zugness"]) == []
        assert len(await memory.recall(ADA, "tea", 500)) == 400


@pytest.mark.parametrize(("max_vacuum_bytes", "rewritten"), [(2**20, False), (2**22, True)])
async def test_a_file_is_rewritten_only_up_to_a_size(path: Path, max_vacuum_bytes: int, rewritten: bool) -> None:
    async with opened(path, max_vacuum_bytes=max_vacuum_bytes) as database:
        history = HistorySQL(database)
        await history.begin(new_turn("x" * 2**20))
        await history.begin(new_turn("canary", CANARY))
        await history.begin(new_turn("y" * 2**20, UserId("bob")))
        await history.clear(UserId("bob"), None)
        await history.clear(CANARY, None)
        assert await remnants_after_erasure(database, path, ["canary"]) == []
        free = await database.read(lambda connection: connection.exec_driver_sql("PRAGMA freelist_count").scalar())

    assert rewritten == (free == 0)


# Obstacles


READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM turns").fetchall()
print("reading", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def read_by_another_process(path: Path) -> AsyncIterator[None]:
    """Keep a read transaction open, as a backup does."""
    command = [sys.executable, "-c", READER, str(path)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*command, **pipes)  # type: ignore[arg-type]
    assert process.stdin
    assert process.stdout
    try:
        assert await process.stdout.readline() == b"reading\n"
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def logged(lines: list[MutableMapping[str, Any]], level: str) -> MutableMapping[str, Any]:
    async with asyncio.timeout(20):
        while True:
            if found := [line for line in lines if line["log_level"] == level]:
                return found[0]
            await asyncio.sleep(0.02)


@pytest.mark.row("S28")
async def test_a_reader_in_another_process_delays_the_erasure_but_not_the_deletion(path: Path) -> None:
    with capture_logs() as lines:
        async with opened(path, reader_timeout=0.05) as database:
            history = HistorySQL(database)
            await history.begin(new_turn("canary", CANARY))
            async with read_by_another_process(path):
                assert await history.clear(CANARY, None) == 1
                assert (await history.page(CANARY, None, 10, None)).items == []
                warning = await logged(lines, "warning")
                assert await asyncio.to_thread(remnants, path, ["canary"]) != []
            assert await remnants_after_erasure(database, path, ["canary"]) == []
            await logged(lines, "info")

    assert (warning["event"], warning["reason"]) == (
        "deleted content is still in the database's files; retrying",
        "another program uses the database",
    )
    assert [line["event"] for line in lines] == [warning["event"], "deleted content has left the database's files"]


@pytest.mark.row("S28")
async def test_a_full_disk_delays_the_erasure_until_there_is_room(path: Path) -> None:
    with capture_logs() as lines:
        async with opened(path) as database:
            history = HistorySQL(database)
            await history.begin(new_turn("x" * 2**20))
            begun = new_turn("canary", CANARY)
            await history.begin(begun)
            assert await remnants_after_erasure(database, path, []) == []
            with files_limited_to(500_000):
                await history.clear(CANARY, None)
                warning = await logged(lines, "warning")
            assert await remnants_after_erasure(database, path, ["canary"]) == []
            await logged(lines, "info")

    assert warning["reason"] in ("disk I/O error", "database or disk is full")


@pytest.mark.row("S28")
async def test_a_process_that_starts_erases_what_a_killed_one_has_deleted(path: Path) -> None:
    script = f"""
import asyncio, os
from pathlib import Path
from adapters.history_sql import HistorySQL
from tests.harness.remnants import remnants_after_erasure
from tests.integration.test_erasure import CANARY, SOON, new_turn, opened

async def main():
    path = Path({str(path)!r})
    async with opened(path) as database:
        history = HistorySQL(database)
        await history.begin(new_turn("canary", CANARY))
        await remnants_after_erasure(database, path, [])
        assert await history.clear(CANARY, None) == 1
        os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    command = [sys.executable, "-c", script]
    killed = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=False)
    assert killed.returncode == -9, killed.stderr
    assert remnants(path, ["canary"]) != []
    async with opened(path, NEVER) as database:
        assert await remnants_after_erasure(database, path, ["canary"]) == []


async def test_a_stop_erases_what_was_deleted(path: Path) -> None:
    async with opened(path, NEVER) as database:
        await HistorySQL(database).begin(new_turn("canary", CANARY))
        await HistorySQL(database).begin(new_turn())
        await HistorySQL(database).clear(CANARY, None)
    assert await asyncio.to_thread(remnants, path, ["canary"]) == []


async def test_a_stop_without_time_leaves_the_erasure_to_the_next_start(path: Path) -> None:
    async with opened(path, NEVER, time_to_close=lambda: 0.0) as database:
        await HistorySQL(database).begin(new_turn("canary", CANARY))
        await HistorySQL(database).clear(CANARY, None)
        with traced_statements() as statements:
            await database.close()
    assert statements == []
    async with opened(path) as database:
        assert await remnants_after_erasure(database, path, ["canary"]) == []


async def test_a_stop_does_not_wait_again_for_a_reader(path: Path) -> None:
    async with opened(path) as database:
        await HistorySQL(database).begin(new_turn("canary", CANARY))
        async with read_by_another_process(path):
            with capture_logs() as lines:
                await HistorySQL(database).clear(CANARY, None)
                await logged(lines, "warning")
            with traced_statements() as statements:
                await database.close()
    assert statements == []
    async with opened(path) as database:
        assert await remnants_after_erasure(database, path, ["canary"]) == []


async def test_a_database_of_an_earlier_version_is_erased_once(path: Path) -> None:
    async with opened(path) as database:
        await remnants_after_erasure(database, path, [])
    with closing(sqlite3.connect(path)) as earlier:
        earlier.execute("PRAGMA user_version = 0")
    rewrites = []
    for _ in range(2):
        with traced_statements() as statements:
            async with opened(path) as database:
                assert await remnants_after_erasure(database, path, []) == []
                await HistorySQL(database).begin(new_turn())
        rewrites.append(statements.count("VACUUM"))

    assert rewrites == [1, 0]


# The log


@pytest.mark.row("S10")
async def test_the_log_stays_small_although_it_is_always_being_read(path: Path) -> None:
    """Two threads of this process read, each until the other has begun anew, so that the log is never unused."""
    async with opened(path, max_log_bytes=2**20) as database:
        history, sizes = HistorySQL(database), list[int]()
        begun, changed = [0, 0], threading.Condition()

        def read(connection: Connection, number: int) -> None:
            cursor = connection.connection.cursor()
            cursor.execute("SELECT name FROM sqlite_master")
            cursor.fetchone()  # the read transaction stays open
            with changed:
                begun[number] += 1
                changed.notify_all()
                other = begun[1 - number]
                changed.wait_for(lambda: begun[1 - number] > other, 0.2)
            cursor.close()

        async def keep_reading(run: Callable[..., Awaitable[None]], number: int) -> None:
            while len(sizes) < 400:
                await run(lambda connection: read(connection, number))

        async def write() -> None:
            for _ in range(400):  # 40 MB
                await history.begin(new_turn("x" * 100_000))
                sizes.append(Path(f"{path}-wal").stat().st_size)
                await asyncio.sleep(0.01)

        await asyncio.gather(keep_reading(database.read, 0), keep_reading(database.search, 1), write())

    assert max(sizes) < 20 * 2**20  # a few MiB, and more on a loaded machine, whose readers may be late


# Schedule


@pytest.mark.row("S29")
async def test_many_deletions_share_a_rewrite_and_do_not_wait_for_it(path: Path) -> None:
    with traced_statements() as statements:
        async with opened(path, Schedule()) as database:
            history = HistorySQL(database)
            await remnants_after_erasure(database, path, [])
            before = statements.count("VACUUM")
            for number in range(100):
                await history.begin(new_turn("canary", UserId(f"user{number}")))
                assert await history.clear(UserId(f"user{number}"), None) == 1
            assert await remnants_after_erasure(database, path, ["canary"]) == []

    assert before == 1
    assert 1 <= statements.count("VACUUM") - before <= 10


class Writer:
    """A writer for the thread that runs the test."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.connection: Connection = engine.connect()

    def disconnect(self) -> None:
        self.connection.close()
        self.connection = self._engine.connect()


class Clock:
    """A clock that tests set. It advances by `step` when it is read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Scheduled:
    """An erasure that runs on the test's clock, on an empty database."""

    def __init__(self, path: Path, statements: list[str]) -> None:
        SQLiteDatabase(f"sqlite:///{path}").migrate()
        self.clock = Clock()
        self.writer = Writer(make_engine(path, 5.0))
        self.erasure = Erasure(
            self.writer,
            WriteAheadLog(self.writer, path, busy_timeout=5.0, reader_timeout=0.0),
            max_vacuum_bytes=2**20,
            schedule=Schedule(quiet_period=1, max_delay=5, max_duty=0.1, retry_interval=2, warning_interval=60),
            clock=self.clock,
        )
        self._statements = statements

    def delete(self) -> None:
        mark_rows_deleted(self.writer.connection)
        self.erasure.request()

    def advance(self, seconds: float = 0) -> float | None:
        """Let the time pass, then do what is due. Returns the seconds until more is due."""
        self.clock.now += seconds
        while (due := self.erasure.advance()) == 0:
            pass
        return due

    @property
    def rewrites(self) -> int:
        return self._statements.count("VACUUM")


@pytest.fixture
def scheduled(path: Path) -> Iterator[Scheduled]:
    with traced_statements() as statements:
        scheduled = Scheduled(path, statements)
        assert scheduled.advance() is None
        statements.clear()
        yield scheduled
        scheduled.writer.connection.close()


def test_nothing_is_rewritten_without_a_deletion(scheduled: Scheduled) -> None:
    assert scheduled.advance(3600) is None
    assert scheduled.rewrites == 0


def test_the_file_is_rewritten_after_a_quiet_period(scheduled: Scheduled) -> None:
    scheduled.delete()
    assert scheduled.advance(0.5) == 0.5
    scheduled.delete()
    assert scheduled.advance(0.75) == 0.25
    assert scheduled.rewrites == 0
    assert scheduled.advance(0.25) is None
    assert scheduled.rewrites == 1


def test_the_file_is_rewritten_after_a_maximum_delay(scheduled: Scheduled) -> None:
    for _ in range(10):
        scheduled.delete()
        scheduled.advance(0.5)
    assert scheduled.rewrites == 1


def test_the_next_run_waits_in_proportion_to_the_duration_of_the_last(scheduled: Scheduled) -> None:
    scheduled.delete()
    scheduled.clock.step = 0.5
    scheduled.advance(1)
    scheduled.clock.step = 0.0
    scheduled.delete()
    pause = scheduled.advance()
    assert pause is not None
    assert pause >= 9 * 2.0  # at least four steps of half a second
    assert scheduled.advance(pause) is None
    assert scheduled.rewrites == 2


def test_a_stop_does_not_wait_for_the_schedule(scheduled: Scheduled) -> None:
    scheduled.delete()
    scheduled.advance()
    scheduled.erasure.finish()
    assert scheduled.rewrites == 1
    assert Remnants.of(scheduled.writer.connection) is Remnants.NOWHERE


def test_a_stop_waits_only_for_some_time(scheduled: Scheduled) -> None:
    scheduled.delete()
    scheduled.clock.step = 0.2
    scheduled.erasure.finish()
    assert scheduled.rewrites == 0
    assert Remnants.of(scheduled.writer.connection) is Remnants.IN_PAGES


def test_a_stop_interrupts_a_rewrite_that_takes_too_long(scheduled: Scheduled) -> None:
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5000)"
    connection = driver(scheduled.writer.connection)
    connection.execute(f"CREATE TABLE large AS {numbers} SELECT n FROM numbers")
    scheduled.delete()

    def trace(statement: str) -> None:
        if statement == "VACUUM":
            scheduled.clock.now += 1

    connection.set_trace_callback(trace)
    with capture_logs() as lines:
        scheduled.erasure.finish()
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("deleted content is still in the database's files; the next start continues", "interrupted")
    ]
    assert Remnants.of(scheduled.writer.connection) is Remnants.IN_PAGES
    assert driver(scheduled.writer.connection).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_deletion_during_a_run_leads_to_another(scheduled: Scheduled) -> None:
    scheduled.delete()
    scheduled.clock.now += 1
    assert scheduled.erasure.advance() == 0
    scheduled.delete()
    assert scheduled.advance() == 1
    assert Remnants.of(scheduled.writer.connection) is Remnants.IN_PAGES
    assert scheduled.advance(1) is None
    assert scheduled.rewrites == 2
    assert Remnants.of(scheduled.writer.connection) is Remnants.NOWHERE


def test_a_failing_run_is_repeated_and_reported_once_a_minute(scheduled: Scheduled, path: Path) -> None:
    with capture_logs() as lines, closing(sqlite3.connect(path, isolation_level=None)) as other:
        scheduled.delete()
        other.execute("BEGIN IMMEDIATE")
        assert scheduled.advance(1) == pytest.approx(2)
        reported = []
        for _ in range(61):
            assert scheduled.advance(2) == pytest.approx(2)
            reported.append(len(lines))
        other.execute("ROLLBACK")
        assert scheduled.advance(2) is None

    assert [reported.count(number) for number in (1, 2, 3)] == [29, 30, 2]
    assert [line["log_level"] for line in lines] == ["warning", "warning", "warning", "info"]
    assert {line.get("reason") for line in lines} == {"another program uses the database", None}


def test_an_unexpected_error_is_reported_with_its_traceback_and_without_its_text(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Callable[[], None]:
        raise ValueError("canary")

    with capture_logs() as lines, monkeypatch.context() as patch:
        patch.setattr("adapters.sql.sqlite.erasure.write_transaction", fail)
        scheduled.delete()
        scheduled.advance(1)

    assert lines[0]["reason"] == "ValueError"
    assert isinstance(lines[0]["exc_info"], ValueError)
    assert scheduled.advance(2) is None
