"""Several workers on one socket: `smart-chatbot serve --workers N`, and uvicorn's own `--workers`."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness.commands import run
from tests.harness.exchange import TIMEOUT, Exchange, client_of, follow
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import NOBODY, ServiceProcess, service_process

UVICORN = (sys.executable, "-m", "uvicorn", "entrypoints.asgi:app", "--host", "127.0.0.1", "--port", "0")
COMMAND = ("-m", "entrypoints.cli", "serve", "--workers", "2")
NO_DATABASE = "postgresql://user@127.0.0.1:9/chat"
HUNG = 1
ALONE = {"Connection": "close"}
"""Headers of a request on a connection of its own, which either worker may accept."""


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def database(postgres: Postgres) -> str:
    return await asyncio.to_thread(postgres.new_database)


async def test_a_killed_worker_is_replaced_and_a_killed_supervisor_has_them_drain(
    tmp_path: Path, upstream: ScriptedUpstream, database: str
) -> None:
    async with workers(tmp_path, upstream, database) as service:
        first, second = await pids(service, 2)
        async with streaming(service.url) as stream:
            [serving] = [pid for pid in (first, second) if await has_connection(pid)]
            os.kill(first + second - serving, signal.SIGKILL)
        assert stream.acknowledged
        third = (await pids(service, 3))[2]
        assert [event["signal"] for event in events(service, "worker died")] == ["SIGKILL"]
        assert sum("listens on" in line for line in service.output) == 1
        async with streaming(service.url) as stream:
            service.signal(signal.SIGKILL)
        assert stream.acknowledged
        await until_gone(first, second, third)


async def test_workers_have_the_options_of_their_supervisor(
    tmp_path: Path, upstream: ScriptedUpstream, database: str
) -> None:
    (tmp_path / "named.env").write_text(f"DATABASE_URL={database}\nOPENAI_API_KEY=sk-file\nAPP_NAME=File\n")
    options = ("--app-name", "Option", "--env-file", "named.env", "--openai-base-url", upstream.base_url)
    async with service_process(*options, "--openai-seed=7", directory=tmp_path, command=COMMAND) as service:
        await pids(service, 2)
        async with client_of(service.url) as client:
            health = [(await client.get("/api/health", headers=ALONE)).json()["name"] for _ in range(10)]
            await client.post("/api/chat/simple", json={"user_id": "user123", "message": "Hello?"})
    assert set(health) == {"Option"}
    assert upstream.requests[0].body["seed"] == 7
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-file"


@pytest.mark.row("P5")
async def test_a_signal_drains_all_workers_and_every_stream_is_told(
    tmp_path: Path, upstream: ScriptedUpstream, database: str
) -> None:
    async with workers(tmp_path, upstream, database, OPENAI_MODEL="slow", SHUTDOWN_GRACE="0.5") as service:
        started = await pids(service, 2)
        streams = [Exchange(f"user{number}", "Hello?") for number in range(20)]
        async with client_of(service.url) as client, asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(follow(client, stream))
            await until(lambda: all(stream.deltas for stream in streams))
            service.signal(signal.SIGTERM)
        assert await service.wait() == 0
        ends = {((stream.last or {})["error"]["code"], stream.closed_properly) for stream in streams}
        assert ends == {("server_shutting_down", True)}
        assert "Traceback" not in "".join(service.output)
    await until_gone(*started)


async def test_ctrl_c_and_a_signal_to_every_process_are_one_signal(
    tmp_path: Path, upstream: ScriptedUpstream, database: str
) -> None:
    async with workers(tmp_path, upstream, database, SHUTDOWN_GRACE="20") as service:
        started = await pids(service, 2)
        async with streaming(service.url) as stream:
            os.killpg(service.process.pid, signal.SIGINT)  # the terminal's
            for pid in started:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
        assert stream.acknowledged
        assert await service.wait() == 0


@pytest.mark.row("P6")
async def test_a_second_signal_skips_the_grace_period_and_a_worker_that_hangs_is_killed(
    tmp_path: Path, upstream: ScriptedUpstream, database: str
) -> None:
    async with workers(tmp_path, upstream, database, OPENAI_MODEL="slow", SHUTDOWN_GRACE="600") as service:
        started = await pids(service, 2)
        async with streaming(service.url) as stream:
            [hung] = [pid for pid in started if not await has_connection(pid)]
            os.kill(hung, signal.SIGSTOP)
            service.signal(signal.SIGTERM)
            await until_not_ready(service.url)
            service.signal(signal.SIGINT)
        assert (stream.last or {})["error"]["code"] == "server_shutting_down"
        assert await service.wait() == HUNG
        assert [event["pid"] for event in events(service, "worker killed")] == [hung]
    await until_gone(*started)


@pytest.mark.row("P14")
async def test_workers_that_start_before_their_database_wait_for_it(
    tmp_path: Path, upstream: ScriptedUpstream, own_server: Postgres
) -> None:
    database = await asyncio.to_thread(own_server.new_database)
    await asyncio.to_thread(own_server.stop)
    async with workers(tmp_path, upstream, database) as service, client_of(service.url) as client:
        await asyncio.sleep(3)  # in which something may crash
        for path, status in (("/livez", 200), ("/readyz", 503)):
            assert {status} == {(await client.get(path, headers=ALONE)).status_code for _ in range(10)}
        refused = await client.post("/api/chat", json={"user_id": "user123", "message": "Hello?"})
        assert (503, "history_unavailable") == (refused.status_code, refused.json()["code"])
        assert upstream.requests == []
        await asyncio.to_thread(own_server.start)
        await pids(service, 2)
        async with asyncio.timeout(TIMEOUT):
            while {(await client.get("/readyz", headers=ALONE)).status_code for _ in range(10)} != {200}:
                await asyncio.sleep(0.1)
        async with streaming(service.url) as stream:
            pass
        assert stream.acknowledged
        assert (2, []) == (len(events(service, "worker started")), events(service, "worker died"))
        assert "Traceback" not in "".join(service.output)


async def test_a_database_of_a_newer_version_ends_the_service_with_one_sentence(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    for statement in (
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        "INSERT INTO alembic_version VALUES (9999)",
    ):
        await asyncio.to_thread(postgres.execute, statement, database)
    status, output, errors = await run(
        *(sys.executable, "-m", "entrypoints.cli", "serve", "--workers", "3"),
        directory=tmp_path,
        OPENAI_BASE_URL=NOBODY,
        DATABASE_URL=database,
        PORT="0",
    )
    assert status == 3
    assert (output, errors.count("A newer version of this service")) == ("", 1)


@pytest.mark.row("P12")
@pytest.mark.row("S11")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DATABASE_URL", {"DATABASE_URL": "sqlite:///chat.db"}),
        ("HISTORY_BACKEND", {"HISTORY_BACKEND": "in_memory"}),
        ("MEMORY_BACKEND", {"MEMORY_BACKEND": "in_memory"}),
        ("MEM0_VECTOR_STORE", {"MEMORY_BACKEND": "mem0"}),
    ],
)
async def test_several_workers_on_a_store_of_one_process_are_refused(
    forks: Forks, tmp_path: Path, name: str, settings: dict[str, str]
) -> None:
    environment = {"OPENAI_BASE_URL": NOBODY, "DATABASE_URL": NO_DATABASE, **settings}
    status, output = await forks.run(tmp_path, "serve", "--workers", "2", **environment)
    assert status == 3
    (sentence,) = output.splitlines()
    assert sentence.startswith(f"{name}: several workers cannot share ")
    assert "PostgreSQL" in sentence


@pytest.mark.row("P12")
@pytest.mark.row("S11")
async def test_workers_of_uvicorn_on_a_store_of_one_process_are_refused(tmp_path: Path) -> None:
    _, _, errors = await run(*UVICORN, "--workers", "2", directory=tmp_path, OPENAI_BASE_URL=NOBODY)
    assert "DATABASE_URL: several workers cannot share an SQLite file; set it to a PostgreSQL database" in errors
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", ["0", "65", "-1", "many", ""])
async def test_a_number_of_workers_out_of_bounds_is_a_usage_error(forks: Forks, tmp_path: Path, number: str) -> None:
    status, output = await forks.run(tmp_path, "serve", f"--workers={number}", OPENAI_BASE_URL=NOBODY)
    assert status == 2
    assert output.startswith("smart-chatbot serve: argument --workers: must be a number from 1 to 64; see: ")


@pytest.mark.row("P13")
async def test_a_bad_setting_is_reported_once_for_all_workers(forks: Forks, tmp_path: Path) -> None:
    status, output = await forks.run(tmp_path, "serve", "--workers", "3", OPENAI_BASE_URL=NOBODY, TURN_TIMEOUT="0")
    assert status == 3
    assert [line.partition(":")[0] for line in output.splitlines()] == ["TURN_TIMEOUT"]


def workers(
    directory: Path, upstream: ScriptedUpstream, database: str, **environment: str
) -> AbstractAsyncContextManager[ServiceProcess]:
    """Start a service with two workers. By default the model takes a second and a half for a reply."""
    settings = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "tokens-30-50", "DATABASE_URL": database}
    return service_process(directory=directory, command=COMMAND, **settings | environment)


@asynccontextmanager
async def streaming(url: str) -> AsyncIterator[Exchange]:
    """Open a stream and yield when it has received text. Waits for its end on exit."""
    exchange = Exchange("user123", "Hello?")
    async with client_of(url) as client, asyncio.TaskGroup() as group:
        group.create_task(follow(client, exchange))
        await until(lambda: bool(exchange.deltas))
        yield exchange


def events(service: ServiceProcess, name: str) -> Sequence[dict[str, Any]]:
    lines = [json.loads(line) for line in service.output if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def pids(service: ServiceProcess, count: int) -> Sequence[int]:
    """Return the process ids of the workers started so far, as soon as there were `count`."""
    await until(lambda: len(events(service, "worker started")) >= count)
    return [event["pid"] for event in events(service, "worker started")]


async def has_connection(pid: int) -> bool:
    """Return whether a client is connected to this process."""
    connections = await asyncio.to_thread(psutil.Process(pid).net_connections, "tcp4")
    listening = {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
    return any(one.status == psutil.CONN_ESTABLISHED and one.laddr in listening for one in connections)


async def until_not_ready(url: str) -> None:
    """Wait until one of the workers is not ready."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            async with client_of(url) as client:  # a new connection, which any worker may accept
                if (await client.get("/readyz")).status_code == 503:
                    return


async def until_gone(*processes: int) -> None:
    await until(lambda: not any(psutil.pid_exists(pid) for pid in processes))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.01)
