"""Several workers on one database: what clients, readers and the model see is one history, whatever fails."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.harness.chat import eventually
from tests.harness.cluster import Cluster, Worker, running_cluster
from tests.harness.forks import Forks
from tests.harness.observations import Outcome, Stored
from tests.harness.postgres import Postgres
from tests.harness.scenarios import (
    chat_meanwhile,
    chat_together,
    cut_streams,
    disconnects,
    kills,
    race_deletions,
    repeat_keys,
    restarts,
    rolling_restarts,
)
from tests.harness.workload import Workload

WORKERS = 3
SHORT_LEASE = 1.0

Start = Callable[..., Any]


@pytest.fixture
def start(forks: Forks, tmp_path: Path) -> Start:
    """Starts the workers on an empty database of a server."""

    @asynccontextmanager
    async def start(server: Postgres, **options: Any) -> AsyncIterator[tuple[Cluster, str]]:
        url = await asyncio.to_thread(server.new_database)
        async with running_cluster(forks, tmp_path, workers=WORKERS, DATABASE_URL=url, **options) as cluster:
            yield cluster, url

    return start


@pytest.mark.row("S16")
@pytest.mark.row("S17")
async def test_clients_of_one_user_at_several_workers_see_one_history(postgres: Postgres, start: Start) -> None:
    async with start(postgres) as (cluster, _):
        workload = await chat_together(cluster, clients=8, turns=12)
        assert await workload.finish() == []


async def test_kills_of_workers_under_load_lose_and_duplicate_no_turn(postgres: Postgres, start: Start) -> None:
    async with start(postgres, lease=SHORT_LEASE, deltas=10, pause_ms=10) as (cluster, _):
        workload = await chat_meanwhile(cluster, kills(cluster, 2, (0.3, 1.0)), users=3)
        assert await workload.finish(wait_for_lost=True) == []


@pytest.mark.row("P7")
async def test_a_rolling_restart_under_load_ends_some_turns_early_and_loses_none(
    postgres: Postgres, start: Start
) -> None:
    async with start(postgres, deltas=40, pause_ms=40, SHUTDOWN_GRACE="0.2") as (cluster, _):
        workload = await rolling_restarts(cluster, times=1, users=6)
        assert await workload.finish() == []
        assert workload.answers["ended by server_shutting_down"]


@pytest.mark.row("S23")
async def test_the_turn_of_a_paused_worker_is_ended_by_another_one_and_stays_so(
    postgres: Postgres, start: Start
) -> None:
    async with start(postgres, lease=SHORT_LEASE, deltas=150, pause_ms=20) as (cluster, _):
        workload = Workload(cluster)
        client, (paused, other, *_) = workload.client("ann"), cluster.workers
        message, started = client.new_message(), monotonic()
        sending = asyncio.create_task(client.attempt(paused, message, "default"))
        await eventually(lambda: _last(workload, other, lambda turn: bool(turn.reply)))
        paused.signal(signal.SIGSTOP)
        await eventually(lambda: _last(workload, other, lambda turn: turn.status != "in_progress"))
        paused.signal(signal.SIGCONT)
        client.record(message, "default", started, await sending, paused)
        following = await client.send()
        assert (workload.observed.sent[0].outcome, following.outcome) == (Outcome.INFO, Outcome.OK)
        assert await workload.finish() == []
        assert ["worker_lost", None] == [turn.reason for turn in workload.observed.reads[-1].turns]


@pytest.mark.row("C14")
async def test_requests_with_the_same_key_at_two_workers_ask_the_model_once(postgres: Postgres, start: Start) -> None:
    async with start(postgres, deltas=5, pause_ms=5) as (cluster, _):
        workload = await repeat_keys(cluster, keys=60)
        assert await workload.finish() == []


async def test_a_stream_that_is_cut_continues_at_another_worker_to_the_byte(postgres: Postgres, start: Start) -> None:
    async with start(postgres, deltas=40, pause_ms=15) as (cluster, _):
        workload = await cut_streams(cluster, streams=30, cuts=5)
        assert await workload.finish() == []


async def test_nothing_that_was_deleted_is_read_at_any_worker(postgres: Postgres, start: Start) -> None:
    async with start(postgres, pause_ms=5) as (cluster, _):
        workload = await race_deletions(cluster, races=50)
        assert await workload.finish() == []


@pytest.mark.row("S14")
async def test_no_turn_is_lost_when_postgresql_ends_connections_or_crashes(own_server: Postgres, start: Start) -> None:
    async with start(own_server, lease=SHORT_LEASE, deltas=10, pause_ms=10) as (cluster, url):
        faults = (disconnects(own_server, url, 3, 0.5), restarts(own_server, 1, 0.5))
        workload = await chat_meanwhile(cluster, *faults, users=3)
        assert await workload.finish() == []


async def _last(workload: Workload, worker: Worker, condition: Callable[[Stored], bool]) -> bool:
    """Whether the latest turn, as read at a worker, meets a condition."""
    read = await workload.read("ann", worker)
    return bool(read and read.turns and condition(read.turns[-1]))
