"""The service receives SIGTERM or SIGINT while it streams."""

import asyncio
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.harness.exchange import Exchange, client_of, follow
from tests.harness.forks import Forks
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import service_process

STREAMS = 200
STOP_TIMEOUT = 5
"""Seconds within which the service must exit, with the default grace period."""


@dataclass
class Stopped:
    """Observations of a service that was stopped while it streamed."""

    readiness: int
    liveness: int
    refusal: httpx2.Response
    running_when_not_ready: int
    exchanges: Sequence[Exchange]
    status: int
    seconds: float
    output: str
    ends: Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Send SIGTERM to `smart-chatbot serve` while it has many streams. Done once for all tests, as it is slow."""
    return asyncio.run(_stop_under_load(tmp_path_factory.mktemp("stopped")))


@pytest.mark.row("P5")
def test_the_service_is_not_ready_while_it_drains(stopped: Stopped) -> None:
    assert (stopped.readiness, stopped.running_when_not_ready) == (503, STREAMS)


def test_the_service_is_live_while_it_drains(stopped: Stopped) -> None:
    assert stopped.liveness == 200


@pytest.mark.row("P5")
def test_new_chats_are_rejected_and_their_connections_closed_while_the_service_drains(stopped: Stopped) -> None:
    refusal = stopped.refusal
    assert (refusal.status_code, refusal.headers["Connection"]) == (503, "close")
    assert (refusal.json()["code"], refusal.json()["retryable"]) == ("server_shutting_down", True)


@pytest.mark.row("P5")
def test_every_stream_ends_with_server_shutting_down(stopped: Stopped) -> None:
    last_events = [exchange.last or {} for exchange in stopped.exchanges]
    errors = Counter((event["error"]["code"], event["error"]["retryable"]) for event in last_events)
    assert errors == {("server_shutting_down", True): STREAMS}
    assert all(exchange.closed_properly for exchange in stopped.exchanges)


@pytest.mark.row("P5")
def test_every_turn_is_stored_as_interrupted_by_the_shutdown(stopped: Stopped) -> None:
    assert stopped.ends == {("interrupted", "server_shutting_down"): STREAMS}


@pytest.mark.row("P5")
def test_the_service_exits_soon_and_successfully(stopped: Stopped) -> None:
    assert stopped.status == 0
    assert stopped.seconds <= STOP_TIMEOUT


@pytest.mark.row("P5")
def test_a_stop_logs_no_traceback(stopped: Stopped) -> None:
    assert "Traceback" not in stopped.output
    assert '"exception"' not in stopped.output


async def test_a_reply_that_ends_within_the_grace_period_is_complete(forks: Forks, tmp_path: Path) -> None:
    async with (
        _upstream("tokens-20-50", SHUTDOWN_GRACE="30") as environment,
        forks.service(tmp_path, **environment) as service,
        _streaming(service.url, 3) as exchanges,
    ):
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
    assert [exchange.acknowledged for exchange in exchanges] == [True] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_the_first_signal_of_any_kind_drains(forks: Forks, tmp_path: Path, number: signal.Signals) -> None:
    async with (
        _upstream("tokens-20-50", SHUTDOWN_GRACE="30") as environment,
        forks.service(tmp_path, **environment) as service,
        _streaming(service.url, 3) as exchanges,
    ):
        service.signal(number)
        assert await service.wait() == 0
    assert [exchange.acknowledged for exchange in exchanges] == [True] * 3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
@pytest.mark.row("P6")
async def test_a_second_signal_skips_the_grace_period(
    forks: Forks, tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    async with (
        _upstream("slow", SHUTDOWN_GRACE="600") as environment,
        forks.urgent_service(tmp_path, **environment) as service,
        client_of(service.url) as client,
        _streaming(service.url, 3) as exchanges,
    ):
        service.signal(first)
        await _not_ready(client)
        service.signal(second)
        assert await service.wait() == 0
        assert "Traceback" not in await service.output()
    assert await asyncio.to_thread(_ends, tmp_path) == {("interrupted", "server_shutting_down"): 3}
    assert all(exchange.closed_properly for exchange in exchanges)


async def test_streams_end_with_server_shutting_down_under_plain_uvicorn(tmp_path: Path) -> None:
    command = ("-m", "uvicorn", "entrypoints.asgi:app", "--port", "0")
    async with (
        _upstream("slow", SHUTDOWN_GRACE="0.2") as environment,
        service_process(directory=tmp_path, command=command, **environment) as service,
        _streaming(service.url, 3) as exchanges,
    ):
        service.signal(signal.SIGTERM)
        await service.wait()
    assert [(exchange.last or {})["error"]["code"] for exchange in exchanges] == ["server_shutting_down"] * 3
    assert await asyncio.to_thread(_ends, tmp_path) == {("interrupted", "server_shutting_down"): 3}
    assert "Traceback" not in "".join(service.output)


async def test_a_client_that_never_reads_does_not_delay_the_exit(forks: Forks, tmp_path: Path) -> None:
    async with (
        _upstream("slow-0", texts=("x",), SHUTDOWN_GRACE="0.2") as environment,
        forks.service(tmp_path, **environment) as service,
    ):
        with await _stalled_reader(service.url):
            service.signal(signal.SIGTERM)
            assert await service.wait() == 0
        assert "Traceback" not in await service.output()
    assert await asyncio.to_thread(_ends, tmp_path) == {("interrupted", "server_shutting_down"): 1}


async def _stop_under_load(directory: Path) -> Stopped:
    loop, command = asyncio.get_running_loop(), ("-m", "entrypoints.cli", "serve")
    async with (
        _upstream("slow") as environment,
        service_process(directory=directory, command=command, **environment) as service,
        client_of(service.url) as client,
        _streaming(service.url, STREAMS) as exchanges,
    ):
        service.signal(signal.SIGTERM)
        began = loop.time()
        readiness = await _not_ready(client)
        refusal = await client.post("/api/chat", json={"user_id": "late", "message": "Hello?"})
        liveness = (await client.get("/livez")).status_code
        running = sum(exchange.last is None for exchange in exchanges)
        status = await service.wait()
        seconds = loop.time() - began
    output = "".join(service.output)
    return Stopped(readiness, liveness, refusal, running, exchanges, status, seconds, output, _ends(directory))


async def _not_ready(client: httpx2.AsyncClient) -> int:
    """Poll `/readyz` until its status is not 200; return that. Opens a new connection each time like load balancers."""
    while (status := (await client.get("/readyz", headers={"Connection": "close"})).status_code) == 200:
        await asyncio.sleep(0.01)
    return status


@asynccontextmanager
async def _upstream(model: str, texts: Sequence[str] = ("word ",), **environment: str) -> AsyncIterator[dict[str, str]]:
    """Start an upstream and yield the environment of a service that uses it with `model`."""
    async with ScriptedUpstream() as upstream:
        upstream.texts = tuple(texts)
        yield {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": model, **environment}


@asynccontextmanager
async def _streaming(url: str, count: int) -> AsyncIterator[Sequence[Exchange]]:
    """Start `count` streams and yield when each has received text. Waits for the end of all streams on exit."""
    exchanges = [Exchange(f"user{number}", "Hello?") for number in range(count)]
    async with client_of(url) as client, asyncio.TaskGroup() as group:
        for exchange in exchanges:
            group.create_task(follow(client, exchange))
        while not all(exchange.deltas for exchange in exchanges):
            await asyncio.sleep(0.01)
        yield exchanges


async def _stalled_reader(url: str) -> socket.socket:
    """Open a stream that is never read, and return when all buffers on the way are full."""
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, (address.hostname, address.port))
    body = b'{"user_id": "user123", "message": "Hello?"}'
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    await loop.sock_sendall(sock, head % len(body) + body)
    unsent = [-1, 0]
    while unsent[-1] == 0 or unsent[-1] != unsent[-2]:
        await asyncio.sleep(0.3)
        unsent.append(await asyncio.to_thread(_unsent, sock.getsockname()[1]))
    return sock


def _unsent(port: int) -> int:
    """Return the number of bytes in the send queue to the client at `port`."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(queues.split(":")[0], 16) for _, _, remote, _, queues, *_ in lines if remote.endswith(f":{port:04X}")
    )


def _ends(directory: Path) -> Counter[tuple[str, str]]:
    """Count the stored turns by status and reason."""
    with closing(sqlite3.connect(directory / "data" / "chat.db")) as connection:
        return Counter(connection.execute("SELECT status, reason FROM turns").fetchall())
