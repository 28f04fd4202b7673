"""Leases of conversations that two workers share: each has its own connections to one PostgreSQL."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import psycopg
import pytest
from sqlalchemy import Connection, text

from adapters.clock import utc_now
from adapters.conversation_leases_sql import ConversationLeasesSQL
from adapters.history_sql import HistorySQL
from adapters.sql import lease_statements
from adapters.sql.database import Statements
from adapters.sql.lease_statements import Applicant, Outcome
from adapters.sql.postgres.database import PostgresDatabase
from application.ports.conversation_leases import Lease
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import ConversationId, Turn
from domain.errors import TurnInProgress, WorkerLost
from domain.idempotency import IdempotencyKey
from tests.contract.conversation_leases import ANN, HOME, LONG, WORK, new_turn_id
from tests.harness.postgres import URL_FILE
from tests.harness.script import NOW

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("postgres_in_tmp_path")]

LEASE = timedelta(seconds=15)


class Database(PostgresDatabase):
    """A PostgreSQL whose clock a test can set forward."""

    later = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.later


@dataclass
class Worker:
    database: Database
    leases: ConversationLeasesSQL
    history: HistorySQL

    async def acquire(self, *, wait: float = 0, tentative: bool = False) -> tuple[Turn, Lease]:
        turn = Turn(new_turn_id(), ANN, WORK, NOW, "Hello")
        return turn, await self.leases.acquire(turn.id, ANN, WORK, wait=wait, tentative=tentative)

    async def begin(self, turn: Turn, key: IdempotencyKey | None = None) -> None:
        assert turn == await self.history.begin(TurnBegin(turn, LEASE, key, takes_conversation=True))

    async def run_turn(self, *, tentative: bool = False) -> None:
        turn, lease = await self.acquire(tentative=tentative)
        await self.begin(turn)
        await self.history.finish(TurnEnd(turn.completed("Hi", "stop")))
        await lease.release(turn_ended=True)

    async def start_waiting(self) -> "asyncio.Task[tuple[Turn, Lease]]":
        """Start a task that waits for the conversation; returns when it is in the queue."""
        before = await self.waiting()
        task = asyncio.create_task(self.acquire(wait=LONG))
        while await self.waiting() == before:
            await asyncio.sleep(0.005)
        return task

    async def waiting(self) -> list[str]:
        """The ids of the waiting turns."""
        query = text("SELECT waiting FROM conversation_leases")
        queue = await self.database.read(lambda connection: connection.execute(query).scalar_one())
        return [turn_id for turn_id, *_ in json.loads(queue or "[]")]

    async def rows(self) -> int:
        count = text("SELECT count(*) FROM conversation_leases")
        return int(await self.database.read(lambda connection: connection.execute(count).scalar_one()))


@asynccontextmanager
async def worker(directory: Path, poll_interval: float = 0.25, renew_interval: float = 1.0) -> AsyncIterator[Worker]:
    async with Database((directory / URL_FILE).read_text()) as database:
        yield Worker(
            database,
            ConversationLeasesSQL(database, poll_interval=poll_interval, renew_interval=renew_interval),
            HistorySQL(database, database.now),
        )


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Worker]:
    async with worker(tmp_path) as running:
        yield running


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Worker]:
    async with worker(tmp_path) as running:
        yield running


async def test_turns_wait_in_one_queue_in_the_order_they_arrived(one: Worker, two: Worker) -> None:
    _, lease = await one.acquire()
    queue = [await worker.start_waiting() for worker in (two, one, one, two)]

    for place, expected in enumerate(queue):
        await lease.release()
        _, lease = await expected
        assert [False] * (3 - place) == [task.done() for task in queue[place + 1 :]]


async def test_four_turns_wait_over_all_workers(one: Worker, two: Worker) -> None:
    await one.acquire()
    queue = [await worker.start_waiting() for worker in (two, one, one, two)]

    with anyio.fail_after(5), pytest.raises(TurnInProgress):
        await two.acquire(wait=LONG)

    for task in queue:
        task.cancel()
    await asyncio.wait(queue)


@pytest.mark.parametrize("ends", ["finish", "release"])
async def test_a_turn_that_waits_on_another_worker_is_notified(tmp_path: Path, ends: str) -> None:
    async with worker(tmp_path) as one, worker(tmp_path, poll_interval=LONG) as two:
        turn, lease = await one.acquire()
        await one.begin(turn)
        waiting = await two.start_waiting()
        if ends == "finish":
            await one.history.finish(TurnEnd(turn.completed("Hi", "stop")))
        await lease.release(turn_ended=ends == "finish")

        with anyio.fail_after(LONG / 2):
            await waiting


async def test_a_turn_waits_until_that_of_a_dead_worker_is_ended(one: Worker, two: Worker) -> None:
    turn, _ = await one.acquire()
    await one.begin(turn)
    waiting = await two.start_waiting()
    two.database.later = 2 * LEASE
    await asyncio.sleep(0.5)
    assert not waiting.done()

    assert 1 == await two.history.finish_abandoned()
    with anyio.fail_after(5):
        await waiting


async def test_a_turn_that_a_paused_worker_has_locked_does_not_keep_others_from_being_ended(
    one: Worker, two: Worker, tmp_path: Path
) -> None:
    locked, dead = (Turn(new_turn_id(), ANN, conversation, NOW, "Hello") for conversation in (WORK, HOME))
    await one.begin(locked)
    await one.begin(dead)
    two.database.later = 2 * LEASE
    async with await psycopg.AsyncConnection.connect((tmp_path / URL_FILE).read_text()) as paused:
        await paused.execute("SELECT FROM turns WHERE id = %s FOR NO KEY UPDATE", [locked.id])
        assert 1 == await two.history.finish_abandoned()
        assert WorkerLost.code == (await two.history.get(dead.id, ANN)).reason
    assert 1 == await two.history.finish_abandoned()


async def join_and_die(worker: Worker) -> None:
    """Let a turn join the queue whose worker dies then."""
    dead = Applicant(new_turn_id(), ANN, WORK)
    assert Outcome.WAITING == await worker.database.write(
        lambda connection: lease_statements.take_or_wait(connection, dead, 4, worker.database.now(), waits=True)
    )


async def test_a_waiting_turn_whose_worker_died_is_skipped_when_it_is_not_present_any_more(
    one: Worker, two: Worker
) -> None:
    _, lease = await one.acquire()
    await join_and_die(two)
    waiting = await one.start_waiting()
    await lease.release()
    await asyncio.sleep(0.3)
    assert not waiting.done()

    one.database.later = lease_statements.PRESENCE
    with anyio.fail_after(5):
        await waiting


async def test_turns_of_dead_workers_do_not_fill_the_queue(one: Worker, two: Worker) -> None:
    _, lease = await one.acquire()
    for _ in range(4):
        await join_and_die(two)
    with pytest.raises(TurnInProgress):
        await one.acquire(wait=5)

    one.database.later = lease_statements.PRESENCE
    waiting = await one.start_waiting()
    await lease.release()
    with anyio.fail_after(5):
        await waiting


async def test_a_turn_that_still_waits_keeps_its_place(tmp_path: Path) -> None:
    async with worker(tmp_path, 0.05, 0.1) as one, worker(tmp_path, 0.05, 0.1) as two:
        _, lease = await one.acquire()
        waiting = [await one.start_waiting(), await two.start_waiting()]
        for step in range(1, 5):
            one.database.later = two.database.later = lease_statements.PRESENCE * step * 0.6
            await asyncio.sleep(0.5)
        await lease.release()
        with anyio.fail_after(5):
            await waiting[0]
        assert not waiting[1].done()
        waiting[1].cancel()


async def test_a_lease_whose_turn_does_not_begin_expires(one: Worker, two: Worker) -> None:
    await one.acquire()
    with pytest.raises(TurnInProgress):
        await two.acquire()
    two.database.later = timedelta(seconds=5)

    other, _ = await two.acquire()
    assert other.id == await one.leases.holder(ANN, WORK)


@pytest.mark.parametrize("key", [None, IdempotencyKey.of("k", ANN, WORK, "Hello", use_memory=True)])
async def test_a_turn_that_has_lost_its_lease_cannot_begin(
    one: Worker, two: Worker, key: IdempotencyKey | None
) -> None:
    turn, _ = await one.acquire()
    two.database.later = timedelta(seconds=5)
    other, _ = await two.acquire()

    with pytest.raises(TurnInProgress):
        await one.begin(turn, key)

    assert [] == (await one.history.page(ANN, None, 1, None)).items
    await two.begin(other, key)


async def test_a_turn_that_has_lost_its_lease_does_not_fail_others_that_begin_with_it(one: Worker, two: Worker) -> None:
    turn, _ = await one.acquire()
    two.database.later = timedelta(seconds=8)
    await two.acquire()

    begins = [one.begin(replace(turn, id=new_turn_id(), conversation_id=HOME)), one.begin(turn)]
    begun, refused = await asyncio.gather(*begins, return_exceptions=True)

    assert begun is None
    assert isinstance(refused, TurnInProgress)


@pytest.mark.parametrize("first", ["begin", "take"])
async def test_a_lease_that_expires_while_its_turn_begins_is_not_given_to_two(
    one: Worker, two: Worker, first: str
) -> None:
    turn, _ = await one.acquire()
    two.database.later = timedelta(seconds=60)
    other = Applicant(new_turn_id(), ANN, WORK)
    done, proceed = threading.Event(), threading.Event()

    def begin(connection: Connection) -> bool:
        record = TurnBegin(turn, LEASE, takes_conversation=True)
        return one.database.turn_writes.begin(connection, record, one.database.now())()

    def take(connection: Connection) -> bool:
        return Outcome.TAKEN is lease_statements.take_or_wait(connection, other, 4, two.database.now(), waits=False)

    def held_open(statements: Statements[bool]) -> Statements[bool]:
        def run(connection: Connection) -> bool:
            result = statements(connection)
            done.set()
            proceed.wait(10)
            return result

        return run

    if first == "begin":
        earlier, later = one.database.write(held_open(begin)), two.database.write(take)
    else:
        earlier, later = two.database.write(held_open(take)), one.database.write(begin)
    tasks = [asyncio.ensure_future(earlier)]
    await asyncio.to_thread(done.wait, 10)
    tasks.append(asyncio.ensure_future(later))
    await asyncio.sleep(0.2)
    assert not tasks[1].done()
    proceed.set()
    results = await asyncio.gather(*tasks)

    assert [True, False] == results


@pytest.mark.parametrize("tentative", [True, False])
async def test_the_next_turn_is_never_rejected_as_busy_after_the_end_was_stored(
    one: Worker, two: Worker, tentative: bool
) -> None:
    for _ in range(500):
        await one.run_turn(tentative=tentative)
        await two.run_turn(tentative=tentative)

    assert 1 == await one.rows()


KEY = IdempotencyKey.of("k", ANN, WORK, "Hello", use_memory=True)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("busy", ["about to begin", "running", "waited for"])
async def test_a_turn_that_did_not_wait_cannot_begin_in_a_busy_conversation(
    one: Worker, two: Worker, busy: str, key: IdempotencyKey | None
) -> None:
    running, lease = await one.acquire()
    waiting = []
    if busy != "about to begin":
        await one.begin(running)
    if busy == "waited for":
        waiting.append(await one.start_waiting())
        await one.history.finish(TurnEnd(running.completed("Hi", "stop")))
    turn, tentative = await two.acquire(tentative=True)

    with pytest.raises(TurnInProgress):
        await two.begin(turn, key)

    await tentative.release()
    assert turn not in (await two.history.page(ANN, None, 10, None)).items
    await lease.release()
    await asyncio.gather(*waiting)


async def test_of_turns_that_begin_at_the_same_time_one_begins(one: Worker, two: Worker) -> None:
    for _ in range(50):
        turns = [(worker, (await worker.acquire(tentative=True))[0]) for worker in (one, two, one, two)]
        results = await asyncio.gather(*(worker.begin(turn) for worker, turn in turns), return_exceptions=True)

        assert {None: 1, TurnInProgress: 3} == Counter(result and type(result) for result in results)
        await one.history.finish(TurnEnd(turns[results.index(None)][1].completed("Hi", "stop")))


async def test_a_repeated_request_gets_the_turn_of_its_key_although_that_has_the_conversation(
    one: Worker, two: Worker
) -> None:
    first, _ = await one.acquire(tentative=True)
    await one.begin(first, KEY)
    again, _ = await two.acquire(tentative=True)

    assert first == await two.history.begin(TurnBegin(again, LEASE, KEY, takes_conversation=True))


async def test_a_lease_that_is_given_back_before_its_turn_begins_leaves_nothing(one: Worker) -> None:
    _, lease = await one.acquire()
    await lease.release()

    assert 0 == await one.rows()


async def test_a_turn_that_is_about_to_begin_keeps_its_lease_when_the_history_is_deleted(
    one: Worker, two: Worker
) -> None:
    await one.run_turn()
    turn, _ = await one.acquire()

    assert 1 == await two.history.clear(ANN, None)
    with pytest.raises(TurnInProgress):
        await two.acquire()
    await one.begin(turn)


@pytest.mark.parametrize("conversation", [WORK, None])
async def test_leases_are_deleted_with_the_history(
    one: Worker, two: Worker, conversation: ConversationId | None
) -> None:
    turn, _ = await one.acquire()
    await one.begin(turn)

    await two.history.clear(ANN, conversation)

    assert 0 == await two.rows()
    assert await one.history.finish(TurnEnd(turn.completed("Hi", "stop"))) is None
    await two.run_turn()


async def test_leases_of_other_conversations_are_not_deleted(one: Worker) -> None:
    await one.run_turn()
    await one.history.clear(ANN, HOME)

    assert 1 == await one.rows()


async def test_waiting_turns_stay_in_the_queue_when_the_history_is_deleted(one: Worker, two: Worker) -> None:
    turn, _ = await one.acquire()
    await one.begin(turn)
    waiting = await two.start_waiting()

    await one.history.clear(ANN, None)
    with anyio.fail_after(5):
        await waiting


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_worker_whose_clock_is_wrong_takes_no_lease_and_ends_no_turn(
    one: Worker, tmp_path: Path, jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sql.postgres.clock.utc_now", lambda: utc_now() + jump)
    turn, _ = await one.acquire()
    async with worker(tmp_path) as wrong:
        with pytest.raises(TurnInProgress):
            await wrong.acquire()
        await one.begin(turn)
        assert 0 == await wrong.history.finish_abandoned()
        with pytest.raises(TurnInProgress):
            await wrong.acquire()


async def test_turns_of_a_conversation_that_run_and_are_deleted_on_two_workers_at_once_never_fail(
    one: Worker, two: Worker
) -> None:
    async def send(worker: Worker, number: int) -> None:
        turn, lease = await worker.acquire()
        await worker.begin(turn)
        await worker.history.finish(TurnEnd(turn.completed(str(number), "stop"), remember=number % 2 == 0))
        await lease.release(turn_ended=True)

    async def client(worker: Worker, number: int) -> None:
        for _ in range(10):
            with suppress(TurnInProgress):
                await send(worker, number)
            if number % 5 == 0:
                await worker.history.clear(ANN, WORK)

    await asyncio.gather(*(client(worker, number) for number in range(10) for worker in (one, two)))
