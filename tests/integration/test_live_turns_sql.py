"""Running turns that several workers share: `one` runs them, and `other` follows and stops them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, make_url, text
from structlog.testing import capture_logs

from adapters.event_logs import EventLogs
from adapters.sql.live_turns import statements
from adapters.sql.live_turns.deletions import Deletions
from adapters.sql.live_turns.mirrors import Mirrors
from adapters.sql.live_turns.outgoing import SharedLog
from adapters.sql.postgres.database import PostgresDatabase
from application.ports.history import TurnEnd
from application.ports.live_turns import DELETED, Batch, End, LiveTurnsUnavailable, Reader
from application.ports.llm import LLMParameterRefused
from domain.conversation import DEFAULT_CONVERSATION, TurnId, Usage
from domain.errors import Cancelled, ClientDisconnected, Failure, ServerShuttingDown, StreamExpired, WorkerLost
from tests.contract.live_turns import ANN, BEN, CUT, LONG, STOP, Running, begin, read_to_end, stops_of
from tests.contract.suite import Suite
from tests.harness.live_turns import Worker, open_worker
from tests.harness.postgres import URL_FILE, Postgres

pytestmark = pytest.mark.server

TEXT = ["Grüße, ", "", "☀️", "\u0000?", '"\\', "\r\n", "{}", "end"]
UNAVAILABLE = End(None, Failure.of(LiveTurnsUnavailable()))


@pytest.fixture
async def workers(postgres_in_tmp_path: None, tmp_path: Path) -> AsyncIterator[tuple[Worker, Worker]]:
    async with open_worker(tmp_path) as one, open_worker(tmp_path) as other:
        yield one, other


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


async def _is_followed(running: Running) -> bool:
    """Return whether the worker of a turn knows that it has readers in others."""
    assert isinstance(running.log, SharedLog)
    return running.log.is_followed


async def read(reader: Reader, count: int) -> list[str]:
    """Read so many deltas."""
    deltas: list[str] = []
    async with asyncio.timeout(20):
        while len(deltas) < count:
            batch = await reader.next(LONG)
            assert batch is not None
            assert batch.first == len(deltas) + 1 or not batch.deltas
            deltas += batch.deltas
    return deltas


async def execute(database: PostgresDatabase, statement: str) -> None:
    await database.write(lambda connection: connection.execute(text(statement)).close())


async def count(database: PostgresDatabase, table: str) -> int:
    def statements(connection: Connection) -> int:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    return await database.read(statements)


async def left(reader: Reader) -> None:
    await reader.__aexit__(None, None, None)


# Following


@pytest.mark.parametrize("after", range(len(TEXT) + 2))
async def test_another_worker_replays_the_same_events_after_any_of_them(
    workers: tuple[Worker, Worker], after: int
) -> None:
    one, other = workers
    running = await begin(one)
    running.log.accept()
    running.log.append(TEXT[:3])
    async with await other.join(running.id, ANN, after) as reader:
        running.log.append(TEXT[3:])
        end = End(None, Failure.of(WorkerLost("Why.", retry_after=1.5)), Usage(3, 4, estimated=True))
        await running.log.close(end)

        assert await read_to_end(reader) == (TEXT[after:], end)
    async with await other.join(running.id, ANN, after) as reader:
        expected = Batch(min(after, len(TEXT)) + 1, TEXT[after:], True, end)
        assert expected == await reader.next(LONG)


async def test_another_worker_is_told_which_parameter_is_to_blame(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await other.join(running.id, ANN) as reader:
        end = End(None, Failure.of(LLMParameterRefused("seed")))
        await running.log.close(end)

        assert await read_to_end(reader) == ([], end)


async def test_workers_of_version_0_1_0_can_read_the_end_of_a_turn_for_which_no_parameter_is_to_blame() -> None:
    _, failure, _ = orjson.loads(statements.encode_end(CUT))

    assert CUT.failure is not None
    assert list(CUT.failure[:5]) == failure


async def test_workers_of_version_0_1_0_can_store_the_header_of_a_log(workers: tuple[Worker, Worker]) -> None:
    one, _ = workers
    await execute(
        one.database,
        "INSERT INTO live_turns (turn_id, user_id, conversation_id, stop_when_left, worker)"
        " VALUES ('turn', 'ann', 'default', true, 'worker')",
    )
    assert await count(one.database, "live_turns") == 1


async def test_a_reader_of_another_worker_receives_events_while_the_turn_runs(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await other.join(running.id, ANN) as reader:
        running.log.accept()
        assert Batch(1, [], True, None) == await reader.next(LONG)
        for number in range(1, 4):
            running.log.append([str(number)])
            assert Batch(number, [str(number)], True, None) == await reader.next(LONG)
        await running.log.close(STOP)
        assert Batch(4, [], True, STOP) == await reader.next(LONG)


async def test_a_turn_of_another_worker_is_remote(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await one.join(running.id, ANN) as here, await other.join(running.id, ANN) as there:
        assert [False, True] == [here.is_remote, there.is_remote]


async def test_workers_are_notified_of_events_only_if_the_turn_is_followed_elsewhere(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    one, other = workers
    received: list[str] = []
    async with PostgresDatabase((tmp_path / URL_FILE).read_text()) as listening:
        connected = asyncio.Event()
        listening.notifications.subscribe(statements.TOPIC, received.append, connected.set)
        await connected.wait()
        received.clear()  # on connecting, workers notify others of what these may have missed
        running = await begin(one)
        running.log.append(["unnoticed"])
        await until(lambda: is_stored(one.database))
        assert [] == received

        async with await other.join(running.id, ANN) as reader:
            assert ["unnoticed"] == await read(reader, 1)
            running.log.append(["noticed"])
            batch = await reader.next(LONG)
            assert batch == Batch(2, ["noticed"], False, None)

            async def was_told() -> bool:
                return {"asked", "flushed"} == {message.partition(" ")[0] for message in received}

            await until(was_told)


async def test_a_worker_is_told_that_a_turn_is_followed_elsewhere_even_if_that_needs_no_readers(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    running = await begin(one, stop_when_left=False)
    running.log.append(["a"])
    await until(lambda: is_stored(one.database))
    async with await other.join(running.id, ANN) as reader:
        assert await read(reader, 1) == ["a"]
        await asyncio.sleep(0.3)
        for _ in range(3):  # each would take nearly a second if the other worker was not notified
            running.log.append(["b"])
            async with asyncio.timeout(0.7):
                assert await reader.next(LONG) is not None


async def is_stored(database: PostgresDatabase) -> bool:
    return await count(database, "turn_events") == 1


async def test_a_loop_that_fails_unexpectedly_is_run_again(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workers
    store, failures = statements.store, iter([ValueError("bug")])

    def fail_once(*arguments: Any, **keywords: Any) -> Any:
        for failure in failures:
            raise failure
        return store(*arguments, **keywords)

    monkeypatch.setattr(statements, "store", fail_once)
    with capture_logs() as lines:
        lost = await begin(one)
        lost.log.append(["lost"])
        await asyncio.sleep(1.5)
    assert ["sharing of running turns failed"] == [line["event"] for line in lines]
    running = await begin(one)
    running.log.append(["text"])
    async with await other.join(running.id, ANN) as reader:
        assert ["text"] == await read(reader, 1)


async def test_many_readers_follow_many_turns_without_gaps(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    turns = [await begin(one, f"user{number}") for number in range(20)]
    texts = [str(number) for number in range(400)]

    async def write(running: Running) -> None:
        for number in range(0, 400, 4):
            running.log.append(texts[number : number + 4])
            await asyncio.sleep(0.005)
        await running.log.close(STOP)

    async def follow(running: Running, delay: float) -> tuple[Sequence[str], End | None]:
        await asyncio.sleep(delay)
        async with await other.join(running.id, None) as reader:
            return await read_to_end(reader)

    async with await one.join(turns[0].id, None):
        reading = [asyncio.create_task(follow(running, delay)) for running in turns for delay in (0, 0.3)]
        await asyncio.gather(*map(write, turns))
        assert [(texts, STOP)] * 40 == await asyncio.gather(*reading)


async def test_another_users_turn_cannot_be_joined(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    with pytest.raises(StreamExpired):
        await other.join(running.id, BEN)
    async with await other.join(running.id, ANN):
        pass


async def test_a_log_that_is_abandoned_ends_for_readers_of_another_worker(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await other.join(running.id, ANN) as reader:
        running.log.append(["a"])
        running.log.abandon()
        assert await read_to_end(reader) == (["a"], UNAVAILABLE)
    assert running.stops == []


async def test_a_log_that_has_outgrown_its_limits_keeps_its_readers_but_rejects_new_ones(
    postgres_in_tmp_path: None, tmp_path: Path
) -> None:
    async with open_worker(tmp_path) as one, open_worker(tmp_path, max_events=3) as other:
        running = await begin(one)
        async with await other.join(running.id, ANN) as reader:
            running.log.append(["a", "b", "c", "d"])
            assert await read(reader, 4) == ["a", "b", "c", "d"]
            with pytest.raises(StreamExpired):
                await other.join(running.id, ANN)
            await running.log.close(STOP)
            assert await read_to_end(reader) == ([], STOP)


async def test_a_finished_log_expires_after_its_retention(postgres_in_tmp_path: None, tmp_path: Path) -> None:
    async with open_worker(tmp_path) as one, open_worker(tmp_path, retention=1, purge_interval=0.1) as other:
        running = await begin(one)
        running.log.append(["a"])
        await running.log.close(STOP)
        async with await other.join(running.id, ANN) as reader:
            assert await read_to_end(reader) == (["a"], STOP)

        async def is_gone() -> bool:
            return await count(one.database, "live_turns") == 0

        await until(is_gone)
        assert await count(one.database, "turn_events") == 0
        await one.history.finish(TurnEnd(running.turn.completed("a", "stop")))
        with pytest.raises(StreamExpired):
            await other.join(running.id, ANN)


# Stopping


async def test_another_worker_stops_a_turn_and_waits_until_it_has_ended(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    stopping = asyncio.create_task(other.stop(running.id, ANN))
    assert [Cancelled] == [type(stop) for stop in await stops_of(running)]
    await asyncio.sleep(0.2)
    assert not stopping.done()
    await one.history.finish(TurnEnd(running.turn.ended_by(Cancelled())))
    async with asyncio.timeout(10):
        await stopping


async def test_a_turn_is_stopped_for_the_reason_that_another_worker_gives(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    stopping = asyncio.create_task(other.stop(running.id, None, ServerShuttingDown()))
    assert [ServerShuttingDown] == [type(stop) for stop in await stops_of(running)]
    await one.history.finish(TurnEnd(running.turn.ended_by(ServerShuttingDown())))
    await stopping


async def test_another_worker_stops_a_turn_whose_log_was_abandoned(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    running.log.abandon()
    await until(lambda: has_ended_log(one.database))
    stopping = asyncio.create_task(other.stop(running.id, ANN))
    assert [Cancelled] == [type(stop) for stop in await stops_of(running)][:1]
    await one.history.finish(TurnEnd(running.turn.ended_by(Cancelled())))
    await stopping


async def has_ended_log(database: PostgresDatabase) -> bool:
    return await count(database, "live_turns WHERE ended_at IS NOT NULL") == 1


async def test_only_the_owner_stops_a_turn_of_another_worker(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one, stop_when_left=False)
    await other.stop(running.id, BEN)
    for worker in workers:
        await worker.stop_when_left(running.id, BEN)
    await asyncio.sleep(0.5)
    assert running.stops == []


# Presence


async def test_a_reader_of_another_worker_keeps_a_turn_running_until_it_leaves(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    here, there = await one.join(running.id, ANN), await other.join(running.id, ANN)
    second = await other.join(running.id, ANN)
    await left(here)
    await left(there)
    await asyncio.sleep(1.5)
    assert running.stops == []
    await left(second)
    assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]


async def test_a_turn_goes_on_for_its_own_readers_when_those_of_another_worker_leave(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    running = await begin(one)
    async with await one.join(running.id, ANN):
        async with await other.join(running.id, ANN):
            pass
        await asyncio.sleep(1.5)
        assert running.stops == []
    assert len(await stops_of(running)) == 1


async def test_a_turn_is_stopped_when_the_only_worker_with_readers_has_died(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await one.join(running.id, ANN):
        await execute(
            other.database, f"INSERT INTO turn_readers VALUES ('{running.id}', 'dead', {microseconds_from(other, 3)})"
        )
    await asyncio.sleep(1)
    assert running.stops == []
    assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]


def microseconds_from(worker: Worker, seconds: float) -> int:
    return int((worker.database.now() + timedelta(seconds=seconds)).timestamp() * 1_000_000)


async def test_a_reader_that_was_lost_does_not_stop_the_turn(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await one.join(running.id, ANN):
        reader = await other.join(running.id, ANN)
    await reader.__aexit__(LiveTurnsUnavailable, LiveTurnsUnavailable(), None)
    assert running.stops == []


async def test_a_turn_goes_on_for_readers_of_another_worker_when_the_clock_of_the_server_was_set(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workers
    running = await begin(one)
    async with await other.join(running.id, ANN):
        async with await one.join(running.id, ANN):
            pass
        await asyncio.sleep(1.2)
        now = one.database.now
        monkeypatch.setattr(one.database, "now", lambda: now() + timedelta(hours=1))
        monkeypatch.setattr(one.database, "is_clock_steady", lambda: False)
        await asyncio.sleep(2.2)
        assert running.stops == []


async def test_a_turn_without_stop_when_left_needs_no_readers(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one, stop_when_left=False)
    async with await one.join(running.id, ANN), await other.join(running.id, ANN):
        pass
    await asyncio.sleep(1.2)
    assert running.stops == []


@pytest.mark.parametrize("notified", [True, False])
async def test_a_turn_that_needs_readers_at_the_wish_of_another_worker_goes_on_for_its_own(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch, notified: bool
) -> None:
    one, other = workers
    if not notified:
        monkeypatch.setattr(other.database.notifications, "send", _send_nothing)
    running = await begin(one, stop_when_left=False)
    async with await one.join(running.id, ANN):
        async with await other.join(running.id, ANN):
            await other.stop_when_left(running.id, ANN)
        await asyncio.sleep(1.5)
        assert running.stops == []
    assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]


async def test_a_turn_that_needs_readers_goes_on_for_those_of_another_worker(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one, stop_when_left=False)
    async with await other.join(running.id, ANN):
        async with await one.join(running.id, ANN):
            await one.stop_when_left(running.id, ANN)
        await asyncio.sleep(1.5)
        assert running.stops == []
    assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]


async def test_a_turn_that_needs_readers_can_be_stopped_although_it_has_some(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one, stop_when_left=False)
    async with await one.join(running.id, ANN), await other.join(running.id, ANN):
        await other.stop_when_left(running.id, ANN)
        stopping = asyncio.create_task(other.stop(running.id, ANN))
        assert [Cancelled] == [type(stop) for stop in await stops_of(running)]
        await one.history.finish(TurnEnd(running.turn.ended_by(Cancelled())))
        await stopping


# Deleting


async def test_another_worker_discards_a_running_turn(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    running.log.append(["secret"])
    async with await one.join(running.id, ANN) as here, await other.join(running.id, ANN) as there:
        assert await read(there, 1) == ["secret"]
        await other.discard(ANN, None)
        assert [Cancelled] == [type(stop) for stop in await stops_of(running)]
        running.log.append(["more"])
        await running.log.close(CUT)
        for reader in (here, there):
            batch = await reader.next(LONG)
            assert batch is not None
            assert (batch.deltas, batch.end) == ((), DELETED)
    for worker in workers:
        with pytest.raises(StreamExpired):
            await worker.join(running.id, ANN)
    await asyncio.sleep(0.5)
    assert await count(one.database, "turn_events") == await count(one.database, "live_turns") == 0


@pytest.mark.parametrize("notified", [True, False])
async def test_nothing_of_a_turn_is_delivered_by_any_worker_once_another_one_has_discarded_it(
    workers: tuple[Worker, Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notified: bool
) -> None:
    one, other = workers
    async with open_worker(tmp_path) as deleting:
        running = await begin(one)
        async with await one.join(running.id, ANN) as here, await other.join(running.id, ANN) as there:
            running.log.append(["secret"])
            async with await other.join(running.id, ANN) as copy:
                assert await read(copy, 1) == ["secret"]
            if not notified:
                monkeypatch.setattr(deleting.database.notifications, "send", _send_nothing)
            await deleting.discard(ANN, None)
            for reader in (here, there):  # neither has read anything yet
                batch = await reader.next(0)
                assert batch is None or not batch.deltas
            running.log.append(["more"])
            assert await here.next(0) is None
        assert [Cancelled] == [type(stop) for stop in running.stops]


async def test_nothing_of_an_ended_turn_is_delivered_once_another_worker_has_discarded_it(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    one, other = workers
    async with open_worker(tmp_path) as deleting:
        running = await begin(one)
        running.log.append(["secret"])
        async with await one.join(running.id, ANN) as here:
            await running.log.close(STOP)
            async with await other.join(running.id, ANN) as there, await deleting.join(running.id, ANN) as near:
                await deleting.discard(ANN, None)
                for reader in (here, there, near):
                    assert Batch(2, (), False, DELETED) == await reader.next(0)


async def test_deleting_does_not_wait_for_a_worker_that_has_died(workers: tuple[Worker, Worker]) -> None:
    one, _ = workers
    await execute(one.database, f"INSERT INTO live_workers VALUES ('dead', {microseconds_from(one, 0.5)})")
    async with asyncio.timeout(10):
        await one.discard(ANN, None)
    assert (
        await count(one.database, "unacknowledged_deletions WHERE worker = 'dead'") == 1
    )  # it was waited for until then


async def test_deleting_does_not_wait_for_a_worker_that_died_before_the_clock_was_set_back(
    workers: tuple[Worker, Worker],
) -> None:
    one, _ = workers
    await execute(one.database, f"INSERT INTO live_workers VALUES ('dead', {microseconds_from(one, 3600)})")
    await one.discard(ANN, None)
    assert await count(one.database, "unacknowledged_deletions WHERE worker = 'dead'") == 0


async def test_deleting_fails_if_a_worker_that_is_alive_does_not_acknowledge_it(workers: tuple[Worker, Worker]) -> None:
    one, _ = workers
    await execute(one.database, f"INSERT INTO live_workers VALUES ('busy', {microseconds_from(one, 6)})")
    await execute(one.database, "INSERT INTO unacknowledged_deletions VALUES ('busy', 'deletion', 'ann', NULL, 0)")
    mirrors = Mirrors(one.database, "one", lambda: False)
    logs: EventLogs[SharedLog] = EventLogs(retention=1, max_events=1, max_bytes=1, max_retained_bytes=1)
    deletions = Deletions(one.database, "one", logs, mirrors, acknowledgement_timeout=0.1)
    with pytest.raises(LiveTurnsUnavailable):
        await deletions.wait_for_others("deletion")


@pytest.mark.parametrize("because", ["it was late", "the clock of the server was set"])
async def test_a_worker_that_was_not_asked_to_discard_because_it_did_not_count_as_alive_does_so(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch, because: str
) -> None:
    one, other = workers
    running = await begin(one)
    if because == "it was late":
        await execute(one.database, "DELETE FROM live_workers")
    else:
        now = other.database.now
        monkeypatch.setattr(other.database, "now", lambda: now() + timedelta(hours=1))
        monkeypatch.setattr(one.database, "is_clock_steady", lambda: False)
    await other.discard(ANN, None)
    assert [Cancelled] == [type(stop) for stop in await stops_of(running)]


async def test_a_worker_that_has_closed_is_not_waited_for(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    one, _ = workers
    async with open_worker(tmp_path):
        assert await count(one.database, "live_workers") == 3
    assert await count(one.database, "live_workers") == 2


async def test_another_worker_discards_a_turn_whose_events_are_not_stored_yet(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    running.log.append(["secret"])
    await other.discard(ANN, None)
    assert [Cancelled] == [type(stop) for stop in await stops_of(running)]
    await running.log.close(CUT)
    await asyncio.sleep(0.5)
    assert await count(one.database, "turn_events") == await count(one.database, "live_turns") == 0


async def test_another_worker_discards_a_finished_log(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    await running.log.close(STOP)
    await other.discard(ANN, DEFAULT_CONVERSATION)

    async def is_gone() -> bool:
        try:
            await one.join(running.id, ANN)
        except StreamExpired:
            return True
        return False

    await until(is_gone)
    assert running.stops == []


async def test_a_turn_that_begins_after_the_deletion_is_not_discarded(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    old = await begin(one, stop_when_left=False)
    await one.history.clear(ANN, None)
    running = await begin(one, stop_when_left=False)
    async with await other.join(running.id, ANN):  # its header is stored
        await super(Worker, other).discard(ANN, None)  # the history was cleared before `running` began
    await stops_of(old)
    running.log.append(["a"])
    async with await other.join(running.id, ANN) as reader:
        await running.log.close(STOP)
        assert await read_to_end(reader) == (["a"], STOP)
    assert running.stops == []


# A worker dies


class Processes(Suite[Worker]):
    def opened(self, directory: Path) -> AbstractAsyncContextManager[Worker]:
        return open_worker(directory)


async def run_and_store(worker: Worker, turn_ids: Path, status: str) -> None:
    running = await begin(worker)
    running.log.append(["a", "b"])
    await asyncio.sleep(0.6)
    running.log.append(["lost"])
    if status == "completed":
        await worker.history.finish(TurnEnd(running.turn.completed("ab lost", "stop")))
    await asyncio.to_thread(turn_ids.write_text, running.id)


async def test_the_readers_of_a_worker_that_dies_receive_what_it_had_stored(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    _, other = workers
    turn_ids = tmp_path / "turn"
    await Processes().call_in_dying_process(tmp_path, run_and_store, turn_ids, "in_progress")
    turn_id = TurnId(await asyncio.to_thread(turn_ids.read_text))
    async with await other.join(turn_id, ANN) as reader:
        assert await read(reader, 2) == ["a", "b"]
        assert await reader.next(0.5) is None
        stopping = asyncio.create_task(other.stop(turn_id, ANN))
        await execute(other.database, "UPDATE turns SET lease_expires_at = 0")
        assert await other.history.finish_abandoned() == 1
        assert await read_to_end(reader) == ([], End(None, Failure.of(WorkerLost())))
        await stopping


async def test_a_log_without_the_end_that_the_history_has_is_unavailable(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    _, other = workers
    turn_ids = tmp_path / "turn"
    await Processes().call_in_dying_process(tmp_path, run_and_store, turn_ids, "completed")
    turn_id = TurnId(await asyncio.to_thread(turn_ids.read_text))
    async with await other.join(turn_id, ANN) as reader:
        assert await read_to_end(reader) == (["a", "b"], UNAVAILABLE)


# The database fails


async def end_sessions(database: PostgresDatabase, url: str, query: str) -> None:
    name = make_url(url).database
    statement = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND query LIKE '{query}' AND pid <> pg_backend_pid()"
    )
    await database.read(lambda connection: connection.execute(text(statement)).close())


async def test_nothing_is_lost_with_messages(
    workers: tuple[Worker, Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workers
    url = await asyncio.to_thread((tmp_path / URL_FILE).read_text)
    running, deleted = await begin(one), await begin(one, "ben")
    finished = await begin(one, "ben")
    await finished.log.close(STOP)
    async with await other.join(running.id, ANN) as reader, await other.join(deleted.id, BEN) as gone:
        async with await one.join(running.id, ANN):
            pass
        for worker in workers:
            monkeypatch.setattr(worker.database.notifications, "send", _send_nothing)
        running.log.append(["a"])
        assert await read(reader, 1) == ["a"]
        stopping = asyncio.create_task(other.stop(running.id, ANN))
        assert [Cancelled] == [type(stop) for stop in await stops_of(running)]
        await one.history.finish(TurnEnd(running.turn.ended_by(Cancelled())))
        await stopping
        await other.discard(BEN, None)
        await end_sessions(one.database, url, "LISTEN %")
        await stops_of(deleted)
        assert await read_to_end(gone) == ([], DELETED)
        with pytest.raises(StreamExpired):
            await one.join(finished.id, BEN)


async def test_a_deletion_that_no_worker_announced_is_found_after_a_gap(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    one, other = workers
    running = await begin(one)
    running.log.append(["secret"])
    async with await other.join(running.id, ANN) as reader:
        assert await read(reader, 1) == ["secret"]
    await one.history.clear(ANN, None)  # and then this worker died
    await end_sessions(one.database, await asyncio.to_thread((tmp_path / URL_FILE).read_text), "LISTEN %")

    async def is_gone() -> bool:
        return await count(one.database, "turn_events") == 0

    await until(is_gone)
    with pytest.raises(StreamExpired):
        await one.join(running.id, ANN)


async def test_a_reader_that_leaves_unheard_stops_the_turn(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workers
    running = await begin(one)
    monkeypatch.setattr(other.database.notifications, "send", _send_nothing)
    async with await other.join(running.id, ANN), await one.join(running.id, ANN):
        pass
    assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]


def _send_nothing(*_: object) -> None:
    pass


async def test_after_a_crash_of_the_server_turns_go_on_and_new_ones_are_shared(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    running = await begin(one)
    running.log.append(["a"])
    there = await other.join(running.id, ANN)
    async with await one.join(running.id, ANN) as here:
        assert await read(there, 1) == ["a"]
        await execute(one.database, "TRUNCATE live_turns, turn_events, turn_readers")
        running.log.append(["b"])
        assert await read_to_end(there) == ([], UNAVAILABLE)
        await left(there)
        with pytest.raises(StreamExpired):
            await other.join(running.id, ANN)
        new = await begin(one)
        new.log.append(["new"])
        async with await other.join(new.id, ANN) as reader:
            await new.log.close(STOP)
            assert await read_to_end(reader) == (["new"], STOP)
        assert await count(one.database, f"turn_events WHERE turn_id = '{running.id}'") == 0
        assert running.stops == []
        stopping = asyncio.create_task(other.stop(running.id, ANN))
        await stops_of(running)
        await running.log.close(CUT)
        assert await read_to_end(here) == (["a", "b"], CUT)
        await one.history.finish(TurnEnd(running.turn.ended_by(Cancelled())))
        await stopping


async def test_an_emptied_table_does_not_stop_a_turn_that_was_read_elsewhere(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    running = await begin(one)
    async with await other.join(running.id, ANN) as reader:
        await until(partial(_is_followed, running))
        async with await one.join(running.id, ANN):
            pass
        await execute(one.database, "TRUNCATE live_turns, turn_events, turn_readers")
        assert await read_to_end(reader) == ([], UNAVAILABLE)
    await asyncio.sleep(2)
    assert running.stops == []


async def test_an_outage_delays_events_but_ends_nothing(own_server: Postgres, tmp_path: Path) -> None:
    await asyncio.to_thread(own_server.store_url_in, tmp_path)
    async with open_worker(tmp_path) as one, open_worker(tmp_path) as other:
        running, ending = await begin(one), await begin(one)
        async with (
            await one.join(running.id, ANN) as here,
            await other.join(running.id, ANN) as there,
            await other.join(ending.id, ANN) as short,
        ):
            texts = [str(number) for number in range(100)]
            running.log.append(texts[:10])
            assert await read(there, 10) == texts[:10]
            # A clean stop keeps unlogged tables.
            await asyncio.to_thread(own_server.stop, "fast")
            for text_ in texts[10:60]:
                running.log.append([text_])
                await asyncio.sleep(0.05)
            ending.log.append(["words"])
            with pytest.raises(LiveTurnsUnavailable):
                await ending.log.close(STOP)
            ending.log.abandon()
            assert await there.next(1) is None
            await asyncio.to_thread(own_server.start)
            running.log.append(texts[60:])
            assert await read_to_end(short) == (["words"], STOP)
            assert await read(here, 100) == texts
            await running.log.close(STOP)
            async with await other.join(running.id, ANN) as again:
                assert await read_to_end(again) == (texts, STOP)
            assert (await read_to_end(there))[1] == STOP
        assert running.stops == []


async def test_after_a_long_outage_readers_of_other_workers_are_told(own_server: Postgres, tmp_path: Path) -> None:
    await asyncio.to_thread(own_server.store_url_in, tmp_path)
    async with open_worker(tmp_path, max_outage=1) as one, open_worker(tmp_path, max_outage=1) as other:
        running = await begin(one)
        running.log.append(["a"])
        async with await one.join(running.id, ANN) as here, await other.join(running.id, ANN) as there:
            assert await read(there, 1) == ["a"]
            await asyncio.to_thread(own_server.stop, "fast")
            running.log.append(["b"])
            assert await read_to_end(there) == ([], UNAVAILABLE)
            with pytest.raises(LiveTurnsUnavailable):
                await other.join(running.id, ANN)
            with capture_logs() as logs:
                await asyncio.sleep(3)  # the events are given up
            assert "sharing of running turns given up" in [line["event"] for line in logs]
            await asyncio.to_thread(own_server.start)

            async def is_gone() -> bool:
                try:
                    return await count(one.database, "live_turns") == 0
                except Exception:  # the connections are renewed
                    return False

            await until(is_gone)
            running.log.append(["c"])
            await running.log.close(STOP)
            assert await read_to_end(here) == (["a", "b", "c"], STOP)
        assert running.stops == []


async def test_a_worker_that_closes_stores_what_is_left(postgres_in_tmp_path: None, tmp_path: Path) -> None:
    async with open_worker(tmp_path) as other:
        async with open_worker(tmp_path) as one:
            running = await begin(one)
            running.log.append(["a"])
        async with await other.join(running.id, ANN) as reader:
            assert await read(reader, 1) == ["a"]


async def test_readers_that_a_shutdown_takes_away_can_come_back_elsewhere(
    workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    one, _ = workers
    running = await begin(one)
    async with await one.join(running.id, ANN), open_worker(tmp_path, is_closing=lambda: True) as closing:
        reader = await closing.join(running.id, ANN)
        await left(reader)
    await asyncio.sleep(1.5)
    assert running.stops == []
