"""Mem0's library: concurrent callers, cancelled callers, opening, closing and the end of the process."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.mem0_library.background_loop import BackgroundLoop
from adapters.mem0_library.swallowed_errors import GuardedStore
from adapters.memory_mem0 import MemoryMem0
from application.ports.memory import MemoryUnavailable
from domain.conversation import UserId
from tests.harness.exchange import TIMEOUT
from tests.harness.mem0_memory import ADA, BOB, completed, facts, until
from tests.harness.memory_upstream import MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.servers import ROOT, clean_environment

pytestmark = pytest.mark.server


@pytest.fixture
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


@pytest.fixture
async def memory(upstream: MemoryUpstream, tmp_path: Path) -> AsyncIterator[MemoryMem0]:
    async with open_mem0(tmp_path, upstream) as memory:
        yield memory


# Concurrent and cancelled callers


async def test_concurrent_stores_lose_nothing(memory: MemoryMem0) -> None:
    numbers = range(200)
    await asyncio.gather(*(memory.store(user, f"fact number{n}", 0.5) for n in numbers for user in (ADA, BOB)))

    for user in (ADA, BOB):
        assert {f"fact number{n}" for n in numbers} == set(await facts(memory, user))


async def test_embedded_qdrant_survives_cancelled_callers(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream) as memory:
        stores = [asyncio.create_task(memory.store(UserId(f"u{n % 7}"), f"fact number{n}", 0.5)) for n in range(100)]
        searches = [asyncio.create_task(memory.recall(UserId(f"u{n % 7}"), "fact", 5)) for n in range(100)]
        for n, task in enumerate([*stores[::2], *searches[::2]]):
            await asyncio.sleep(0.001 * (n % 3))
            task.cancel()
        outcomes = await asyncio.gather(*stores, *searches, return_exceptions=True)
    async with open_mem0(tmp_path, upstream) as memory:
        found = [fact for n in range(7) for fact in await facts(memory, UserId(f"u{n}"))]

    assert {asyncio.CancelledError} >= {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)}
    assert {f"fact number{n}" for n in range(1, 100, 2)} <= set(found)
    assert len(found) == len(set(found))


async def test_forgetting_waits_for_a_cancelled_remember(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    extracting, proceed = threading.Event(), threading.Event()

    def extract_late(prompt: str) -> list[str]:
        extracting.set()
        proceed.wait()
        return ["Has a dog called Bello"]

    upstream.extract = extract_late
    remembering = asyncio.create_task(memory.remember(completed("My dog is called Bello.")))
    await until(extracting.is_set)
    remembering.cancel()
    forgetting = asyncio.create_task(memory.forget_all(ADA))
    await asyncio.sleep(0.1)
    assert not forgetting.done()
    proceed.set()

    assert await forgetting
    assert [] == await facts(memory)


class BlockingStore:
    """A store whose search blocks until `proceed` is set; records how many threads are in it at once."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.proceed = threading.Event()
        self.threads = self.max_threads = self.calls = 0

    def search(self) -> None:
        self.threads += 1
        self.max_threads = max(self.max_threads, self.threads)
        self.calls += 1
        self.entered.set()
        self.proceed.wait()
        self.threads -= 1


async def test_the_thread_of_a_cancelled_call_keeps_the_lock() -> None:
    blocking, loop = BlockingStore(), BackgroundLoop()
    store = GuardedStore(blocking, threading.RLock())
    first = asyncio.create_task(loop.run(asyncio.to_thread(store.search), to_completion=False))
    await until(blocking.entered.is_set)
    first.cancel()
    second = asyncio.create_task(loop.run(asyncio.to_thread(store.search), to_completion=False))
    await asyncio.sleep(0.1)
    assert (True, False, 1) == (first.done(), second.done(), blocking.calls)
    blocking.proceed.set()
    await second
    await loop.stop(lambda: None, grace=1)

    assert (2, 1) == (blocking.calls, blocking.max_threads)


async def test_the_event_loop_is_not_blocked(upstream: MemoryUpstream, tmp_path: Path) -> None:
    worst = 0.0

    async def probe() -> None:
        nonlocal worst
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - before)

    probing = asyncio.create_task(probe())
    async with open_mem0(tmp_path, upstream) as memory:
        await asyncio.gather(*(memory.store(ADA, f"fact number{n}", 0.5) for n in range(50)))
        await asyncio.gather(*(memory.recall(ADA, f"number{n}", 5) for n in range(50)))
        await memory.forget_all(ADA)
    probing.cancel()

    assert worst < 2


# Opening and closing


async def test_memories_survive_a_restart(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream) as memory:
        stored = await memory.store(ADA, "likes tea", 0.7)
    async with open_mem0(tmp_path, upstream) as memory:
        assert [stored] == list((await memory.page(ADA, 10, None)).items)


async def test_a_memory_is_unavailable_while_it_is_not_open(upstream: MemoryUpstream, tmp_path: Path) -> None:
    memory = open_mem0(tmp_path, upstream)
    with pytest.raises(MemoryUnavailable):
        await memory.check()
    await memory.close()
    await memory.open()
    await memory.check()
    await memory.close()
    await memory.close()
    with pytest.raises(MemoryUnavailable):
        await memory.recall(ADA, "tea", 5)


async def test_closing_ends_running_calls_as_unavailable(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream, close_grace=0.1) as memory:
        upstream.embedding_fault = "hanghead"
        storing = asyncio.create_task(memory.store(ADA, "likes tea", 0.5))
        await until(lambda: upstream.open > 0)

    with pytest.raises(MemoryUnavailable):
        await storing


@asynccontextmanager
async def mem0_process(
    action: str, data_dir: Path, base_url: str, *, warnings: str = "error", **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        warnings,
        "-m",
        "tests.harness.apps.mem0_process",
        action,
        str(data_dir),
        base_url,
        cwd=ROOT,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1", **environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.mark.row("M8")
async def test_no_telemetry_is_sent_and_nothing_is_written_elsewhere(upstream: MemoryUpstream, tmp_path: Path) -> None:
    home, temporary, data = tmp_path / "home", tmp_path / "temporary", tmp_path / "data"
    home.mkdir()
    temporary.mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(temporary)}
    async with mem0_process("visit", data, upstream.base_url, **environment) as process:
        output, _ = await process.communicate(b"")

    assert ["imported: []", "violations: []"] == output.decode().splitlines()
    assert ([], [], 0) == (list(home.iterdir()), list(temporary.iterdir()), process.returncode)
    assert ["mem0"] == [entry.name for entry in data.iterdir()]


@pytest.mark.row("M9")
async def test_a_second_process_on_the_same_files_gets_an_explanation(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with mem0_process("hold", tmp_path, upstream.base_url) as first:
        assert ("imported: []", "open") == (await line(first), await line(first))
        # Qdrant leaves the file open that it could not lock, which causes a ResourceWarning.
        async with mem0_process("hold", tmp_path, upstream.base_url, warnings="default::UserWarning") as second:
            output, _ = await second.communicate(b"")
        rest, _ = await first.communicate(b"")

    _, explanation = output.decode().splitlines()
    assert explanation.startswith(f"unusable: The memories in {tmp_path}/mem0 are in use by another process")
    assert "closed\n" == rest.decode()


@pytest.mark.parametrize(("action", "rest"), [("hang", "closed\n"), ("exit", "")])
async def test_a_call_that_hangs_does_not_delay_the_end_of_the_process(
    upstream: MemoryUpstream, tmp_path: Path, action: str, rest: str
) -> None:
    upstream.embedding_fault = "hanghead"
    async with mem0_process(action, tmp_path, upstream.base_url) as process:
        while await line(process) != "calling":
            assert process.returncode is None
        await until(lambda: upstream.open > 0)
        output, _ = await asyncio.wait_for(process.communicate(b"x"), TIMEOUT)

    assert (rest, 0) == (output.decode(), process.returncode)
