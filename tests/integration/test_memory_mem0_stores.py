"""Long-term memory on Mem0's library: what is left in its files, how it is configured, and where it keeps memories."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from adapters.mem0_unusable import Mem0Unusable
from adapters.memory_mem0 import MemoryMem0
from application.ports.memory import MemoryRefused, MemoryUnavailable
from domain.conversation import Turn
from domain.errors import MemoryNotFound
from tests.harness.mem0_memory import ADA, BOB, SECRET, completed, facts
from tests.harness.memory_upstream import API_KEY, MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.postgres import Postgres
from tests.harness.servers import NOBODY


@pytest.fixture
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


# What is left behind


def files_with(directory: Path, word: str) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


Forgetting = Callable[[MemoryMem0, Turn], Awaitable[object]]


async def _forget(memory: MemoryMem0, turn: Turn) -> None:
    for one in (await memory.page(ADA, 100, None)).items:
        if SECRET in one.fact:
            await memory.forget(ADA, one.id)


async def _correct(memory: MemoryMem0, turn: Turn) -> None:
    for one in (await memory.page(ADA, 100, None)).items:
        if SECRET in one.fact:
            await memory.correct(ADA, one.id, "something else", None)


@pytest.mark.parametrize(
    "forgetting",
    [lambda memory, _: memory.forget_all(ADA), _forget, _correct],
    ids=["forget_all", "forget", "correct"],
)
async def test_no_file_holds_what_was_forgotten(
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


# Configuration


def config_file(directory: Path, content: object) -> Path:
    path = directory / "mem0.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


async def test_a_file_is_laid_over_the_configuration(upstream: MemoryUpstream, tmp_path: Path) -> None:
    file = config_file(
        tmp_path,
        {"embedder": {"config": {"model": "of-the-file"}}, "llm": {"provider": "openai", "config": {"top_p": 0.7}}},
    )
    async with open_mem0(tmp_path, upstream, config_file=file) as memory:
        await memory.remember(completed("My dog is called Bello."))
    asked = [request for request in upstream.requests if "messages" in request.body]

    assert {"of-the-file"} == {request.body["model"] for request in upstream.requests if "input" in request.body}
    assert ("extractor", 0.7) == (asked[0].body["model"], asked[0].body["top_p"])
    assert f"Bearer {API_KEY}" == upstream.requests[0].headers["authorization"]


async def test_a_store_of_another_kind_is_taken_from_the_file(upstream: MemoryUpstream, tmp_path: Path) -> None:
    other = {"provider": "qdrant", "config": {"path": str(tmp_path / "elsewhere"), "collection_name": "facts"}}
    async with open_mem0(tmp_path, upstream, config_file=config_file(tmp_path, {"vector_store": other})) as memory:
        await memory.store(ADA, "likes tea", 0.5)

    assert (tmp_path / "elsewhere" / "collection" / "facts").is_dir()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ({"llms": {}}, "has parts that Mem0 does not know: llms"),
        ({"llm": {"provider": "hal9000"}}, "a part that Mem0 does not take: llm (provider: hal9000)"),
        ({"vector_store": {"provider": "hal9000"}}, "a part that Mem0 does not take: vector_store (provider: hal9000)"),
        ({"vector_store": {"config": {"port": SECRET}}}, "a part that Mem0 does not take: vector_store"),
        ({"embedder": SECRET}, "a part that Mem0 does not take: embedder"),
        ({"embedder": {"config": {SECRET: 1}}}, "can not be set up as it is configured"),
        ({"vector_store": {"provider": "chroma"}}, "A package that Mem0 needs is not installed"),
    ],
)
async def test_a_configuration_that_can_not_be_used_is_refused_with_a_sentence(
    upstream: MemoryUpstream, tmp_path: Path, content: object, said: str
) -> None:
    with pytest.raises(Mem0Unusable) as refused:
        async with open_mem0(tmp_path, upstream, config_file=config_file(tmp_path, content)):
            pass

    assert said in str(refused.value)
    assert SECRET not in str(refused.value)
    assert API_KEY not in str(refused.value)


async def test_a_file_that_is_not_there_is_named(upstream: MemoryUpstream, tmp_path: Path) -> None:
    with pytest.raises(Mem0Unusable, match=r"missing\.json can not be read"):
        async with open_mem0(tmp_path, upstream, config_file=tmp_path / "missing.json"):
            pass


async def test_vectors_of_another_length_are_refused_at_the_start(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream):
        pass
    with pytest.raises(Mem0Unusable, match="with 1536 dimensions, and the configured one has 3072"):
        async with open_mem0(tmp_path, upstream, embedding_model="text-embedding-3-large"):
            pass
    async with open_mem0(tmp_path, upstream) as memory:
        await memory.check()


@pytest.mark.parametrize(
    "url", [f"postgresql://user:{SECRET}@127.0.0.1:9/x", f"http://:{SECRET}@127.0.0.1:9", f"ftp://{SECRET}", "http://["]
)
async def test_a_store_that_is_not_there_is_refused_with_a_sentence(
    upstream: MemoryUpstream, tmp_path: Path, url: str
) -> None:
    with pytest.raises(Mem0Unusable) as refused:
        async with open_mem0(tmp_path, upstream, store_url=url):
            pass

    assert SECRET not in str(refused.value)


# The other parts


async def test_memories_are_found_by_meaning_without_any_service(tmp_path: Path) -> None:
    memory = MemoryMem0(data_dir=tmp_path, api_key="none", base_url=NOBODY, model="none", embedder="local", infer=False)
    await memory.open()
    for fact in ("Mein Hund heißt Bello", "I am allergic to peanuts", "My birthday is on the third of May"):
        await memory.remember(completed(fact))
    found = await memory.recall(ADA, "What is the name of my dog?", 5)
    await memory.close()

    assert found[0].memory.fact == "Mein Hund heißt Bello"


async def test_in_postgresql_a_users_own_memories_are_compared_and_found_by_an_index(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    async with open_mem0(tmp_path, upstream, store_url=url), await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'memories'")
        indexes = " ".join(index for (index,) in await found.fetchall())

    assert "hnsw" not in indexes  # looks for the nearest of everyone's, and for the user's among them then
    assert "(payload ->> 'user_id'::text)" in indexes


async def test_processes_can_share_postgresql_and_start_at_once(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    memories = [
        MemoryMem0(
            data_dir=tmp_path / str(n), api_key=API_KEY, base_url=upstream.base_url, model="extractor", store_url=url
        )
        for n in range(3)
    ]
    await asyncio.gather(*(memory.open() for memory in memories))
    await asyncio.gather(*(memory.store(ADA, f"fact number{n}", 0.5) for n in range(10) for memory in memories))

    assert [30, 30, 30] == [len(await facts(memory)) for memory in memories]
    ids = [one.id for one in (await memories[0].page(ADA, 100, None)).items]
    deeds: list[Awaitable[object]] = [memory.forget(ADA, one) for one in ids[::2] for memory in memories]
    deeds += [memory.correct(ADA, one, "x", None) for one in ids[::4] for memory in memories]
    outcomes = await asyncio.gather(*deeds, return_exceptions=True)
    assert {MemoryNotFound} >= {type(one) for one in outcomes if isinstance(one, BaseException)}
    assert [15, 15, 15] == [len(await facts(memory)) for memory in memories]
    await asyncio.gather(*(memory.close() for memory in memories))


async def test_connections_that_postgresql_cuts_are_replaced(
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
    """Return when it does; a test's time limit ends the wait."""
    while True:
        try:
            return await memory.check()
        except MemoryUnavailable:
            await asyncio.sleep(0.05)


async def test_what_postgresql_does_not_take_is_refused(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    async with open_mem0(tmp_path, upstream, store_url=postgres.new_database()) as memory:
        with pytest.raises(MemoryRefused):
            await memory.store(ADA, "nul \0 inside", 0.5)
        await memory.remember(completed("nul \0 inside"))

        assert ["nul  inside"] == await facts(memory)
