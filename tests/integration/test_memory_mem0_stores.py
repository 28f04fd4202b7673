"""Mem0's library: erasure from files, configuration, and vector stores."""

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import psycopg.conninfo
import pytest
from qdrant_client.local.qdrant_local import QdrantLocal
from structlog.testing import capture_logs

from adapters.mem0_library.vector_stores import MIN_COMPACTED_POINTS
from adapters.memory_mem0 import MemoryMem0
from application.ports.memory import MemoryNotReady, MemoryRefused, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound, Unusable
from tests.harness.mem0_memory import ADA, BOB, SECRET, completed, facts
from tests.harness.memory_upstream import API_KEY, MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.postgres import Postgres
from tests.harness.raw_server import Call, RawServer
from tests.harness.servers import NOBODY

pytestmark = pytest.mark.server


@pytest.fixture
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


# Erasure


def files_with(directory: Path, word: str) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


Forgetting = Callable[[MemoryMem0, Turn], Awaitable[object]]


async def _forget(memory: MemoryMem0, turn: Turn) -> None:
    for item in (await memory.page(ADA, 100, None)).items:
        if SECRET in item.fact:
            await memory.forget(ADA, item.id)


async def _correct(memory: MemoryMem0, turn: Turn) -> None:
    for item in (await memory.page(ADA, 100, None)).items:
        if SECRET in item.fact:
            await memory.correct(ADA, item.id, "something else", None)


@pytest.mark.parametrize(
    "forgetting",
    [lambda memory, _: memory.forget_all(ADA), _forget, _correct],
    ids=["forget_all", "forget", "correct"],
)
async def test_forgotten_text_is_erased_from_all_files(
    upstream: MemoryUpstream, tmp_path: Path, forgetting: Forgetting
) -> None:
    async with open_mem0(tmp_path, upstream) as memory:
        for n in range(20):
            await memory.store(ADA, f"likes tea number{n} " + "x" * 50 * n, 0.5)
        turn = completed(f"My word is {SECRET}. " + "y" * 3_000)
        await memory.remember(turn)
        for n in range(20):
            await memory.store(BOB, f"likes coffee number{n} " + "x" * 50 * n, 0.5)
        assert ["storage.sqlite"] == files_with(tmp_path, SECRET)
        await forgetting(memory, turn)
        assert [] == files_with(tmp_path, SECRET)
    assert [] == files_with(tmp_path, SECRET)


# Embedded Qdrant's memory


def points_in_memory(memory: MemoryMem0) -> int:
    """Return the number of points that embedded Qdrant holds in memory, including deleted ones."""
    assert memory._runtime is not None
    client = memory._runtime.store.memory.vector_store.client._client
    return sum(len(collection.ids) for collection in client.collections.values())


async def test_deleted_memories_leave_the_process(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream) as memory:
        await memory.store(ADA, f"likes {SECRET}", 0.5)
        for _ in range(3):
            for n in range(MIN_COMPACTED_POINTS // 2):
                await memory.store(BOB, f"likes tea number{n}", 0.5)
            assert await memory.forget_all(BOB)

        assert points_in_memory(memory) <= MIN_COMPACTED_POINTS
        assert [f"likes {SECRET}"] == await facts(memory)
        assert [f"likes {SECRET}"] == [found.memory.fact for found in await memory.recall(ADA, SECRET, 5)]
        assert [] == await facts(memory, BOB)
        await memory.store(BOB, "likes coffee", 0.5)
        await memory.forget_all(ADA)
        assert [] == files_with(tmp_path, SECRET)
    async with open_mem0(tmp_path, upstream) as memory:
        assert [[], ["likes coffee"]] == [await facts(memory), await facts(memory, BOB)]


async def test_no_memory_is_lost_while_deleted_ones_leave_the_process(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async def store(user: UserId) -> None:
        for n in range(MIN_COMPACTED_POINTS // 2):
            await memory.store(user, f"likes tea number{n}", 0.5)

    async def store_and_forget(user: UserId) -> None:
        for _ in range(3):
            await store(user)
            assert await memory.forget_all(user)

    async with open_mem0(tmp_path, upstream) as memory:
        await asyncio.gather(store(ADA), store_and_forget(BOB))
        kept = await facts(memory)
        assert points_in_memory(memory) < 2 * MIN_COMPACTED_POINTS  # as many were stored
    async with open_mem0(tmp_path, upstream) as memory:
        expected = sorted(f"likes tea number{n}" for n in range(MIN_COMPACTED_POINTS // 2))
        assert [expected, expected, []] == [sorted(kept), sorted(await facts(memory)), await facts(memory, BOB)]


# Configuration


def config_file(directory: Path, content: object) -> Path:
    path = directory / "mem0.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


async def test_a_file_overrides_the_configuration(upstream: MemoryUpstream, tmp_path: Path) -> None:
    file = config_file(
        tmp_path,
        {"embedder": {"config": {"model": "of-the-file"}}, "llm": {"provider": "openai", "config": {"top_p": 0.7}}},
    )
    async with open_mem0(tmp_path, upstream, config_file=file) as memory:
        await memory.remember(completed("My dog is called Bello."))
    extractions = [request for request in upstream.requests if "messages" in request.body]

    assert {"of-the-file"} == {request.body["model"] for request in upstream.requests if "input" in request.body}
    assert ("extractor", 0.7) == (extractions[0].body["model"], extractions[0].body["top_p"])
    assert f"Bearer {API_KEY}" == upstream.requests[0].headers["authorization"]


async def test_a_file_can_choose_another_store(upstream: MemoryUpstream, tmp_path: Path) -> None:
    other = {"provider": "qdrant", "config": {"path": str(tmp_path / "elsewhere"), "collection_name": "facts"}}
    async with open_mem0(tmp_path, upstream, config_file=config_file(tmp_path, {"vector_store": other})) as memory:
        await memory.store(ADA, "likes tea", 0.5)

    assert (tmp_path / "elsewhere" / "collection" / "facts").is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ({"llms": {}}, "has sections that Mem0 does not know: llms"),
        ({"llm": {"provider": "hal9000"}}, "a section that Mem0 rejects: llm (provider: hal9000)"),
        ({"vector_store": {"provider": "hal9000"}}, "a section that Mem0 rejects: vector_store (provider: hal9000)"),
        ({"vector_store": {"config": {"port": SECRET}}}, "a section that Mem0 rejects: vector_store"),
        ({"embedder": SECRET}, "a section that Mem0 rejects: embedder"),
        ({"embedder": {"config": {SECRET: 1}}}, "cannot be set up with this configuration"),
        (
            {"vector_store": {"provider": "chroma"}},
            "A package that Mem0 needs is not installed: chromadb; install it, or check the providers in MEM0_CONFIG_",
        ),
    ],
)
async def test_an_invalid_configuration_is_explained_without_secrets(
    upstream: MemoryUpstream, tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(Unusable) as error:
        async with open_mem0(tmp_path, upstream, config_file=config_file(tmp_path, content)):
            pass

    assert message in str(error.value)
    assert SECRET not in str(error.value)
    assert API_KEY not in str(error.value)


async def test_a_missing_configuration_file_is_named(upstream: MemoryUpstream, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"missing\.json cannot be read"):
        async with open_mem0(tmp_path, upstream, config_file=tmp_path / "missing.json"):
            pass


async def test_another_number_of_dimensions_is_rejected_on_open(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream):
        pass
    upstream.dimensions = 3072
    with pytest.raises(Unusable, match="by a model with 1536 dimensions, and the configured one has 3072; check MEM0_"):
        async with open_mem0(tmp_path, upstream, embedding_model="text-embedding-3-large"):
            pass
    upstream.dimensions = 1536
    async with open_mem0(tmp_path, upstream) as memory:
        await memory.check()


@pytest.mark.parametrize("url", [f"ftp://{SECRET}", "http://[", f"postgresql://u:{SECRET}@h:port/d"])
async def test_an_invalid_url_of_the_store_is_explained_without_secrets(
    upstream: MemoryUpstream, tmp_path: Path, url: str
) -> None:
    with pytest.raises(Unusable) as error:
        async with open_mem0(tmp_path, upstream, store_url=url):
            pass

    assert SECRET not in str(error.value)
    assert "MEM0_VECTOR_STORE" in str(error.value)


@pytest.mark.usefixtures("no_proxy_of_this_machine")
@pytest.mark.parametrize("embedder", ["openai", "local"])
async def test_a_socks_proxy_is_named(
    upstream: MemoryUpstream, tmp_path: Path, embedder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://user:{SECRET}@127.0.0.1:1080")
    with pytest.raises(Unusable) as error:
        async with open_mem0(tmp_path, upstream, embedder=embedder):
            pass

    assert str(error.value).startswith("SOCKS proxies are not supported; check ALL_PROXY")
    assert SECRET not in str(error.value)


async def test_a_directory_that_cannot_be_used_names_the_setting(upstream: MemoryUpstream, tmp_path: Path) -> None:
    (tmp_path / "mem0").write_text("a file")
    with pytest.raises(Unusable, match=r"cannot use .*mem0: File exists; check DATA_DIR\."):
        async with open_mem0(tmp_path, upstream):
            pass


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Qdrant's client leaves its lock file open
async def test_embedded_files_in_use_by_another_process_name_the_setting(
    upstream: MemoryUpstream, tmp_path: Path
) -> None:
    async with open_mem0(tmp_path, upstream):
        with pytest.raises(Unusable, match=r"in use by another process; .* set MEM0_VECTOR_STORE"):
            async with open_mem0(tmp_path, upstream):
                pass
    for found in gc.get_objects():  # a thread that still ends may keep it alive until another test
        if type(found) is QdrantLocal:
            found.close()


# Stores that cannot be reached


async def test_a_postgresql_that_starts_later_is_used_then(
    upstream: MemoryUpstream, tmp_path: Path, own_server: Postgres
) -> None:
    url = await asyncio.to_thread(own_server.new_database)
    host = psycopg.conninfo.conninfo_to_dict(url)["host"]
    await asyncio.to_thread(own_server.stop)
    with capture_logs() as log:
        async with open_mem0(tmp_path, upstream, store_url=url, retry_delay=0.05, max_retry_delay=0.2) as memory:
            try:
                for call in (memory.check, lambda: memory.recall(ADA, "tea", 5)):
                    with pytest.raises(MemoryNotReady) as raised:
                        await call()
                    assert raised.value.retryable
            finally:
                await asyncio.to_thread(own_server.start)
            await until_it_works(memory)
            await memory.store(ADA, "likes tea", 0.5)
            assert ["likes tea"] == await facts(memory)

    reason = f"The store of the memories ({host}:5432) cannot be reached (refused); check MEM0_VECTOR_STORE."
    assert reason == raised.value.detail
    assert ("memory not ready", reason) == (log[0]["event"], log[0]["reason"])
    assert "memory ready" == log[-1]["event"]


@pytest.mark.usefixtures("no_proxy_of_this_machine")
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", f"http://:{SECRET}@127.0.0.1:9", f"postgresql://user:{SECRET}@127.0.0.1:9/x"]
)
async def test_an_unreachable_store_does_not_prevent_opening(
    upstream: MemoryUpstream, tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as log:
        async with open_mem0(tmp_path, upstream, store_url=url) as memory:
            with pytest.raises(MemoryNotReady) as raised:
                await memory.check()

    assert raised.value.detail == (
        "The store of the memories (127.0.0.1:9) cannot be reached (refused); check MEM0_VECTOR_STORE."
    )
    assert SECRET not in str(log)
    plain_key = ["memory store without TLS"] if url.startswith("http://:") else []
    assert [*plain_key, "memory not ready"] == [line["event"] for line in log]
    assert "Warning" not in capfd.readouterr().err


async def test_an_unreachable_store_of_the_configuration_file_names_the_file(
    upstream: MemoryUpstream, tmp_path: Path
) -> None:
    other = {"provider": "qdrant", "config": {"host": "127.0.0.1", "port": 9, "api_key": SECRET, "https": False}}
    file = config_file(tmp_path, {"vector_store": other})
    async with open_mem0(tmp_path, upstream, config_file=file) as memory:
        with pytest.raises(MemoryNotReady, match=r"\(127\.0\.0\.1:9\) .* \(refused\); check MEM0_CONFIG_FILE\."):
            await memory.check()


async def test_an_unreachable_store_is_reported_also_after_a_slow_embedder(
    upstream: MemoryUpstream, tmp_path: Path
) -> None:
    upstream.embedding_delay = 0.2
    async with open_mem0(tmp_path, upstream, store_url="http://127.0.0.1:9", probe_timeout=0.05) as memory:
        detail = ""
        while "cannot be reached (refused); check MEM0_VECTOR_STORE" not in detail:
            with pytest.raises(MemoryNotReady) as raised:
                await memory.check()
            detail = raised.value.detail
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_busy_qdrant_does_not_prevent_opening(upstream: MemoryUpstream, tmp_path: Path, status: int) -> None:
    response = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
    async with (
        RawServer(answering(response)) as server,
        open_mem0(tmp_path, upstream, store_url=f"http://127.0.0.1:{server.port}") as memory,
    ):
        with pytest.raises(MemoryNotReady, match=rf":{server.port}\) answers with HTTP {status}; check MEM0_VECTOR_"):
            await memory.check()


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", "answers with HTTP 404; check whether MEM0_VECTOR_STORE"),
        (b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", r"rejected the credentials \(HTTP 401\); check MEM0_VECTOR"),
        (b'HTTP/1.1 200 X\r\nContent-Length: 11\r\n\r\n{"version":1', "in an unknown format; check whether MEM0_"),
        (
            b'HTTP/1.1 200 X\r\nContent-Length: 15\r\n\r\n{"status":"ok"}',
            "in an unknown format; check whether MEM0_",
        ),
    ],
)
async def test_a_server_that_is_no_qdrant_is_reported_with_its_answer(
    upstream: MemoryUpstream, tmp_path: Path, response: bytes, words: str
) -> None:
    async with RawServer(answering(response)) as server:
        with pytest.raises(Unusable, match=words):
            async with open_mem0(tmp_path, upstream, store_url=f"http://127.0.0.1:{server.port}"):
                pass


async def test_a_missing_database_ends_the_start(upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres) -> None:
    url = psycopg.conninfo.make_conninfo(postgres.new_database(), dbname=SECRET)
    parts = psycopg.conninfo.conninfo_to_dict(url)
    url = f"postgresql:///{SECRET}?host={parts['host']}&user={parts['user']}"
    with pytest.raises(Unusable, match=r"\(there is no such database\); check MEM0_VECTOR_STORE\.") as error:
        async with open_mem0(tmp_path, upstream, store_url=url):
            pass

    assert SECRET not in str(error.value)


def answering(response: bytes) -> Callable[[Call], Awaitable[None]]:
    async def respond(call: Call) -> None:
        await call.head()
        await call.send(response)

    return respond


# Embedders and stores


async def test_the_local_embedder_finds_memories_by_meaning(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream, base_url=NOBODY, embedder="local", infer=False) as memory:
        for fact in ("Mein Hund heißt Bello", "I am allergic to peanuts", "My birthday is on the third of May"):
            await memory.remember(completed(fact))
        found = await memory.recall(ADA, "What is the name of my dog?", 5)

    assert found[0].memory.fact == "Mein Hund heißt Bello"


async def test_postgresql_gets_an_index_by_user_instead_of_an_approximate_one(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    async with open_mem0(tmp_path, upstream, store_url=url), await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'memories'")
        indexes = " ".join(index for (index,) in await found.fetchall())

    assert "hnsw" not in indexes
    assert "(payload ->> 'user_id'::text)" in indexes


async def test_processes_share_postgresql_and_start_concurrently(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    memories = [open_mem0(tmp_path / str(n), upstream, store_url=url) for n in range(3)]
    await asyncio.gather(*(memory.open() for memory in memories))
    await asyncio.gather(*(memory.store(ADA, f"fact number{n}", 0.5) for n in range(10) for memory in memories))

    assert [30, 30, 30] == [len(await facts(memory)) for memory in memories]
    ids = [item.id for item in (await memories[0].page(ADA, 100, None)).items]
    calls: list[Awaitable[object]] = [memory.forget(ADA, memory_id) for memory_id in ids[::2] for memory in memories]
    calls += [memory.correct(ADA, memory_id, "x", None) for memory_id in ids[::4] for memory in memories]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {MemoryNotFound} >= {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)}
    assert [15, 15, 15] == [len(await facts(memory)) for memory in memories]
    await asyncio.gather(*(memory.close() for memory in memories))


async def test_connections_closed_by_postgresql_are_replaced(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    async with open_mem0(tmp_path, upstream, store_url=url) as memory:
        await memory.store(ADA, "likes tea", 0.5)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            await connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        with pytest.raises(MemoryUnavailable):
            await memory.check()
        await until_it_works(memory)

        assert ["likes tea"] == await facts(memory)


async def until_it_works(memory: MemoryMem0) -> None:
    """Wait until a check succeeds; the test's timeout bounds it."""
    while True:
        try:
            return await memory.check()
        except MemoryUnavailable:
            await asyncio.sleep(0.05)


async def test_text_that_postgresql_rejects_is_refused(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    async with open_mem0(tmp_path, upstream, store_url=postgres.new_database()) as memory:
        with pytest.raises(MemoryRefused):
            await memory.store(ADA, "nul \0 inside", 0.5)
        await memory.remember(completed("nul \0 inside"))

        assert ["nul  inside"] == await facts(memory)
