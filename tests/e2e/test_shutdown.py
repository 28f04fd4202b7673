"""The process ends in time whatever hangs, and silently if a signal arrives before it serves."""

import asyncio
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest

from entrypoints.signals import send_signal
from tests.harness.exchange import TIMEOUT, Exchange, client_of, follow
from tests.harness.locked_database import locked_by_another_process
from tests.harness.memory_upstream import MemoryUpstream
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ServiceProcess, clean_environment, service_process

GRACE = 0.5
PROMISED = GRACE + 2
"""Seconds from the first signal to the end of the process."""

SLACK = 1.5
"""Seconds that a loaded machine may add."""

HUNG = 1
"""The exit status if something did not end in time."""

SERVE = ("-m", "entrypoints.cli", "serve")
UVICORN = ("-m", "uvicorn", "entrypoints.asgi:app", "--port", "0")


@pytest.mark.row("S27")
async def test_a_locked_database_does_not_delay_the_exit(tmp_path: Path) -> None:
    async with (
        _upstream("slow") as model,
        _service(tmp_path, SERVE, **model) as service,
        _streaming(service.url) as exchange,
        locked_by_another_process(tmp_path / "data" / "chat.db"),
    ):
        seconds = await _stop(service, signal.SIGTERM)
    assert seconds < PROMISED + SLACK
    assert service.process.returncode == HUNG
    assert (exchange.last or {})["error"]["code"] == "history_write_failed"
    assert '"waiting_for": ["SQLiteDatabase"]' in "".join(service.output)


@pytest.mark.row("S27")
async def test_turns_whose_end_was_not_stored_are_recovered_at_the_next_start(tmp_path: Path) -> None:
    async with _upstream("slow") as model:
        async with (
            _service(tmp_path, SERVE, **model) as service,
            _streaming(service.url),
            locked_by_another_process(tmp_path / "data" / "chat.db"),
        ):
            await _stop(service, signal.SIGTERM)
        async with _service(tmp_path, SERVE, **model) as service:
            await _stop(service, signal.SIGTERM)
    with closing(sqlite3.connect(tmp_path / "data" / "chat.db")) as connection:
        assert connection.execute("SELECT reason FROM turns").fetchall() == [("worker_lost",)]


@pytest.mark.row("S27")
async def test_a_second_signal_ends_a_process_whose_database_is_locked(tmp_path: Path) -> None:
    async with (
        _upstream("slow", SHUTDOWN_GRACE="600") as model,
        _service(tmp_path, SERVE, **model) as service,
        _streaming(service.url),
        locked_by_another_process(tmp_path / "data" / "chat.db"),
    ):
        service.signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert await _stop(service, signal.SIGINT) < 1 + SLACK


async def test_a_request_that_waits_for_the_database_is_told_of_the_shutdown(tmp_path: Path) -> None:
    async with (
        _upstream("ok") as model,
        _service(tmp_path, SERVE, **model) as service,
        client_of(service.url) as client,
        locked_by_another_process(tmp_path / "data" / "chat.db"),
    ):
        body = {"user_id": "user123", "message": "Hello?"}
        waiting = asyncio.create_task(client.post("/api/chat/simple", json=body))
        await asyncio.sleep(0.5)
        await _stop(service, signal.SIGTERM)
        assert (await waiting).json()["code"] in {"server_shutting_down", "history_unavailable"}
    assert '"exception"' not in "".join(service.output)


async def test_a_memory_that_hangs_does_not_delay_the_exit(tmp_path: Path) -> None:
    async with MemoryUpstream() as upstream:
        upstream.extraction_fault = "hanghead"
        environment = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "ok", "MEMORY_BACKEND": "mem0"}
        async with _service(tmp_path, SERVE, **environment) as service, client_of(service.url) as client:
            await client.post("/api/chat/simple", json={"user_id": "user123", "message": "I like tea."})
            await _until(lambda: bool(upstream.prompts))
            assert await _stop(service, signal.SIGTERM) < PROMISED + SLACK
    assert "Traceback" not in "".join(service.output)


async def test_plain_uvicorn_ends_in_time_although_the_database_is_locked(tmp_path: Path) -> None:
    async with (
        _upstream("slow") as model,
        _service(tmp_path, UVICORN, **model) as service,
        _streaming(service.url),
        locked_by_another_process(tmp_path / "data" / "chat.db"),
    ):
        assert await _stop(service, signal.SIGHUP) < PROMISED + SLACK
    assert "Traceback" not in "".join(service.output)


@pytest.mark.parametrize("how", ["sleep", "lock"])
async def test_a_blocked_event_loop_does_not_delay_the_exit(tmp_path: Path, how: str) -> None:
    async with _blocked(tmp_path, how, SHUTDOWN_GRACE=str(GRACE)) as service:
        assert await _stop(service, signal.SIGTERM) < PROMISED + SLACK
        assert service.process.returncode == HUNG


@pytest.mark.row("P6")
async def test_a_second_signal_ends_a_process_whose_event_loop_is_blocked(tmp_path: Path) -> None:
    async with _blocked(tmp_path, "sleep", SHUTDOWN_GRACE="600") as service:
        service.signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert await _stop(service, signal.SIGTERM) < 1 + SLACK
    assert '"waiting_for": ["the event loop"]' in "".join(service.output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("command", ["serve", "check"])
async def test_a_signal_at_any_moment_of_the_start_ends_the_process_silently(
    tmp_path: Path, number: signal.Signals, command: str
) -> None:
    for tenths in range(0, 16, 3 if command == "serve" else 6):
        status, output = await _signalled(tmp_path, number, tenths / 10, command, OPENAI_BASE_URL="http://127.0.0.1:9")
        assert status in {0, 128 + number, -number}, output  # the last if the interpreter is about to end anyway
        assert "Traceback" not in output
        assert '"exception"' not in output


@pytest.mark.parametrize("command", ["serve", "migrate"])
async def test_a_signal_while_a_migration_waits_for_a_lock_ends_the_process(tmp_path: Path, command: str) -> None:
    async with locked_by_another_process(tmp_path / "chat.db"):
        url = f"sqlite:///{tmp_path}/chat.db"
        began = time.monotonic()
        status, output = await _signalled(
            tmp_path, signal.SIGTERM, 2, command, OPENAI_BASE_URL="http://127.0.0.1:9", DATABASE_URL=url
        )
    assert time.monotonic() - began < 2 + 5 + SLACK
    assert status in {0, 128 + signal.SIGTERM}, output
    assert "Traceback" not in output


@pytest.mark.parametrize("arguments", [("serve",), ("check", "--live")])
async def test_a_signal_while_an_embedder_is_probed_ends_the_process(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    async with MemoryUpstream() as upstream:
        upstream.embedding_fault = "hanghead"
        environment = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "ok", "MEMORY_BACKEND": "mem0"}
        async with _started(tmp_path, *arguments, **environment) as process:
            await _until(lambda: any("embeddings" in request.path for request in upstream.requests))
            send_signal(process, signal.SIGINT)
            output = (await asyncio.wait_for(process.communicate(), TIMEOUT))[0].decode()
    assert process.returncode in {0, 128 + signal.SIGINT}, output
    assert "Traceback" not in output


async def test_a_hangup_ends_a_terminal_chat_silently(tmp_path: Path) -> None:
    status, output = await _signalled(tmp_path, signal.SIGHUP, 1, "chat")
    assert status == 128 + signal.SIGHUP
    assert output.strip() in {"", "Ctrl-C stops a reply, Ctrl-D ends the chat.\n\nyou>"}  # the former if it is slow


async def _until(condition: Callable[[], bool]) -> None:
    """Poll a condition until it is true. Generous, because importing Mem0 takes long."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.01)


def _service(
    directory: Path, command: tuple[str, ...], **environment: str
) -> AbstractAsyncContextManager[ServiceProcess]:
    return service_process(directory=directory, command=command, **{"SHUTDOWN_GRACE": str(GRACE), **environment})


async def _stop(service: ServiceProcess, number: signal.Signals) -> float:
    """Send the signal, wait for the end of the process, and return how many seconds that took."""
    began = time.monotonic()
    service.signal(number)
    await service.wait()
    return time.monotonic() - began


@asynccontextmanager
async def _upstream(model: str, **environment: str) -> AsyncIterator[dict[str, str]]:
    async with ScriptedUpstream() as upstream:
        yield {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": model, **environment}


@asynccontextmanager
async def _streaming(url: str) -> AsyncIterator[Exchange]:
    """Open a stream and yield when it has received text. Waits for its end on exit."""
    exchange = Exchange("user123", "Hello?")
    async with client_of(url) as client, asyncio.TaskGroup() as group:
        group.create_task(follow(client, exchange))
        await _until(lambda: bool(exchange.deltas))
        yield exchange


@asynccontextmanager
async def _blocked(directory: Path, how: str, **environment: str) -> AsyncIterator[ServiceProcess]:
    """Start a service and have a request block its event loop."""
    command = ("-m", "tests.harness.apps.blocking_service", how)
    environment = {"OPENAI_BASE_URL": "http://127.0.0.1:9", **environment}
    async with (
        service_process(directory=directory, command=command, **environment) as service,
        client_of(service.url) as client,
    ):
        body = {"user_id": "user123", "message": "Hello?"}
        request = asyncio.create_task(client.post("/api/chat/simple", json=body))
        await _until(lambda: "blocked\n" in service.output)
        yield service
        request.cancel()


@asynccontextmanager
async def _started(directory: Path, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `smart-chatbot` and yield when it handles signals, which Python itself would answer with a traceback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entrypoints.cli", *arguments),
        cwd=directory,
        env=clean_environment(**{"PORT": "0", **environment}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await _until(lambda: _handles(process, signal.SIGHUP))
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _signalled(
    directory: Path, number: signal.Signals, after: float, *arguments: str, **environment: str
) -> tuple[int, str]:
    """Run `smart-chatbot`, signal it after so many seconds, and return its exit status and output."""
    async with _started(directory, *arguments, **environment) as process:
        try:
            await asyncio.wait_for(process.wait(), after + 0.001)
        except TimeoutError:
            send_signal(process, number)
        output = (await asyncio.wait_for(process.communicate(), TIMEOUT))[0].decode()
    assert process.returncode is not None
    return process.returncode, output


def _handles(process: asyncio.subprocess.Process, number: signal.Signals) -> bool:
    """Return whether the process handles the signal, or has ended already."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1) or "State:\tZ" in status
