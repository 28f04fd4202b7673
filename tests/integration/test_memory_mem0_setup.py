"""Mem0's library: the probe of the embedder, and embedders that fail at the start or later."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapters.clock import utc_now
from adapters.error_translation import ForeignError
from adapters.history_in_memory import HistoryInMemory
from adapters.memory_guarded import GuardedMemory
from adapters.memory_mem0 import MemoryMem0
from application.memory.outbox_worker import OutboxWorker
from application.ports.history import TurnBegin, TurnEnd
from application.ports.memory import FactsNotExtracted, MemoryMisconfigured, MemoryNotReady, MemoryUnavailable
from application.ports.memory_outbox import OutboxCounts
from application.ports.turn_observer import Where
from domain.conversation import TurnStatus
from domain.errors import Unusable
from domain.retry import RetryPolicy
from tests.harness.mem0_memory import ADA, completed, facts
from tests.harness.memory_upstream import MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.postgres import Postgres
from tests.harness.script import Observed
from tests.harness.servers import NOBODY

pytestmark = pytest.mark.server

CALLS: dict[str, Callable[[MemoryMem0], Awaitable[object]]] = {
    "store": lambda memory: memory.store(ADA, "likes tea", 0.5),
    "remember": lambda memory: memory.remember(completed("My dog is called Bello.")),
    "recall": lambda memory: memory.recall(ADA, "tea", 5),
    "page": lambda memory: memory.page(ADA, 5, None),
    "forget_all": lambda memory: memory.forget_all(ADA),
    "check": lambda memory: memory.check(),
}


@pytest.fixture
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


async def until_ready(memory: MemoryMem0) -> None:
    """Wait until a check succeeds; the test's timeout bounds it."""
    while True:
        try:
            return await memory.check()
        except MemoryNotReady:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("dimensions", [256, 768, 3072])
async def test_the_dimensions_are_those_of_the_embedding_model(
    upstream: MemoryUpstream, tmp_path: Path, dimensions: int
) -> None:
    upstream.dimensions = dimensions
    async with open_mem0(tmp_path, upstream) as memory:
        await memory.remember(completed("My dog is called Bello."))
        found = await memory.recall(ADA, "What is my dog called?", 5)

    assert ["My dog is called Bello."] == [one.memory.fact for one in found]


async def test_postgresql_gets_the_dimensions_of_the_embedding_model(
    upstream: MemoryUpstream, tmp_path: Path, postgres: Postgres
) -> None:
    upstream.dimensions, url = 256, postgres.new_database()
    async with open_mem0(tmp_path, upstream, store_url=url) as memory:
        await memory.store(ADA, "likes tea", 0.5)
    upstream.dimensions = 512
    with pytest.raises(Unusable, match="by a model with 256 dimensions, and the configured one has 512"):
        async with open_mem0(tmp_path, upstream, store_url=url):
            pass


async def test_other_dimensions_in_the_configuration_file_are_rejected(
    upstream: MemoryUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "mem0.json"
    file.write_text(json.dumps({"vector_store": {"config": {"embedding_model_dims": 99}}}), encoding="utf-8")
    with pytest.raises(
        Unusable, match=r"^MEM0_CONFIG_FILE: .* says embedding_model_dims 99, and the embedding model returns 1536"
    ):
        async with open_mem0(tmp_path, upstream, config_file=file):
            pass


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("status-404", "does not know the model (HTTP 404); check MEM0_EMBEDDING_MODEL"),
        ("status-401", "rejected the credentials (HTTP 401); check OPENAI_API_KEY"),
        ("status-400", "HTTP 400; check MEM0_EMBEDDING_MODEL"),
        ("status-500", "HTTP 500"),
        ("html", "something other than a vector"),
        ("closehead", "cannot be reached (connection broken); check OPENAI_BASE_URL"),
    ],
)
async def test_an_embedder_that_fails_at_the_start_is_explained_and_tried_again(
    upstream: MemoryUpstream, tmp_path: Path, fault: str, reason: str
) -> None:
    upstream.embedding_fault = fault
    with capture_logs() as log:
        async with open_mem0(tmp_path, upstream, retry_delay=0.05) as memory:
            for call in CALLS.values():
                with pytest.raises(MemoryNotReady) as raised:
                    await call(memory)
                assert reason in raised.value.detail
            await asyncio.sleep(0.2)
            upstream.embedding_fault = ""
            await until_ready(memory)
            await memory.store(ADA, "likes tea", 0.5)
            assert ["likes tea"] == await facts(memory)

    assert [("memory not ready", "warning"), ("memory ready", "info")] == [
        (line["event"], line["log_level"]) for line in log
    ]
    assert reason in log[0]["reason"]


async def test_an_unreachable_embedder_does_not_prevent_opening(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream, base_url=NOBODY) as memory:
        with pytest.raises(MemoryNotReady, match="cannot be reached"):
            await memory.check()


@pytest.mark.parametrize(("fault", "retryable"), [("status-401", False), ("status-404", False), ("status-500", True)])
async def test_an_embedder_that_fails_at_the_start_tells_whether_to_retry(
    upstream: MemoryUpstream, tmp_path: Path, fault: str, retryable: bool
) -> None:
    upstream.embedding_fault = fault
    async with open_mem0(tmp_path, upstream) as memory:
        with pytest.raises(MemoryNotReady) as raised:
            await memory.store(ADA, "likes tea", 0.5)

    assert retryable is raised.value.retryable


async def test_a_slow_embedder_delays_the_start_only_for_a_moment(upstream: MemoryUpstream, tmp_path: Path) -> None:
    upstream.embedding_delay = 1.0
    async with open_mem0(tmp_path, upstream, probe_timeout=0.05) as memory:
        with pytest.raises(MemoryNotReady, match=r"has not responded within 0\.05 s; check OPENAI_BASE_URL"):
            await memory.check()
        upstream.embedding_delay = 0
        await until_ready(memory)
        await memory.store(ADA, "likes tea", 0.5)


async def test_a_local_embedder_that_takes_long_to_load_is_not_blamed_on_a_service(
    upstream: MemoryUpstream, tmp_path: Path
) -> None:
    async with open_mem0(tmp_path, upstream, base_url=NOBODY, embedder="local", probe_timeout=0) as memory:
        with pytest.raises(MemoryNotReady, match="The local embedding model has not been loaded") as raised:
            await memory.check()
        assert raised.value.retryable
        await until_ready(memory)


async def test_closing_does_not_wait_for_an_embedder_that_hangs(upstream: MemoryUpstream, tmp_path: Path) -> None:
    upstream.embedding_fault = "hanghead"
    memory = open_mem0(tmp_path, upstream, probe_timeout=0.05, close_grace=0.05, embedding_timeout=600)
    await memory.open()
    await memory.close()
    with pytest.raises(MemoryUnavailable):
        await memory.check()


async def test_a_mismatch_found_after_the_start_is_reported_by_every_call(
    upstream: MemoryUpstream, tmp_path: Path
) -> None:
    async with open_mem0(tmp_path, upstream):
        pass
    upstream.dimensions, upstream.embedding_fault = 256, "status-500"
    async with open_mem0(tmp_path, upstream, retry_delay=0.01) as memory:
        upstream.embedding_fault = ""
        detail = ""
        while "by a model with 1536 dimensions" not in detail:
            with pytest.raises(MemoryNotReady) as raised:
                await memory.check()
            detail = raised.value.detail
            await asyncio.sleep(0.01)
        upstream.dimensions = 1536
        await until_ready(memory)


@pytest.mark.row("M12")
@pytest.mark.parametrize("answer", ["I am sorry, but I cannot.", "{}", '{"memory": [{"id": "0", "te'])
async def test_a_turn_without_extracted_facts_is_reported_repeated_and_at_last_given_up(
    upstream: MemoryUpstream, tmp_path: Path, answer: str
) -> None:
    upstream.answer = answer
    history, observer = HistoryInMemory(utc_now), Observed()
    policy = RetryPolicy(timedelta(0), timedelta(0), give_up_after=timedelta(0), min_attempts=3)
    async with open_mem0(tmp_path, upstream) as memory:
        guarded = GuardedMemory(memory, observer, recall_timeout=5)
        worker = OutboxWorker(guarded, history, observer, utc_now, extraction_policy=policy)
        ended = completed("My dog is called Bello.")
        await history.begin(TurnBegin(replace(ended, status=TurnStatus.IN_PROGRESS, reply=""), timedelta(hours=1)))
        await history.finish(TurnEnd(ended, remember=True))
        async with worker.opened():
            while (counts := await history.counts()).pending:
                await asyncio.sleep(0.01)
        assert [] == await facts(memory)

    assert (OutboxCounts(0, 1, 0), 3) == (counts, worker.failed_extractions)
    assert [Where.REMEMBERING_TURN] * 3 + [Where.GIVING_UP_TURN] == [where for where, _ in observer.failures]
    assert {FactsNotExtracted} == {type(error) for _, error in observer.failures}


CHUNKS = b'data: {"choices": [{"index": 0, "delta": {"content": "canary"}}]}\n\ndata: [DONE]\n\n'

UNREADABLE: Mapping[str, tuple[str, bytes]] = {
    "a stream": ("text/event-stream", CHUNKS),
    "a stream as JSON": ("application/json", CHUNKS),
    "a web page": ("text/html", b"<html>canary</html>"),
    "text": ("text/plain", b"canary"),
    "nothing": ("application/json", b""),
    "half": ("application/json", b'{"choices": [{"message": {"content": "canary'),
    "another encoding": ("application/json", b"\xff\xfe{"),
    "a message without choices": ("application/json", b'{"message": {"content": "canary"}, "done": true}'),
    "an error": ("application/json", b'{"error": {"message": "canary"}}'),
    "no choices": ("application/json", b'{"choices": []}'),
    "no message": ("application/json", b'{"choices": [{"message": null}]}'),
    "a list": ("application/json", b"[1]"),
    "null": ("application/json", b"null"),
    "endless nesting": ("application/json", b"[" * 100_000),
}


@pytest.mark.parametrize("response", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_response_that_is_no_chat_completion_counts_as_a_failed_extraction(
    upstream: MemoryUpstream, tmp_path: Path, response: tuple[str, bytes]
) -> None:
    upstream.response = response
    async with open_mem0(tmp_path, upstream) as memory:
        ended = completed("My dog is called Bello.")
        with pytest.raises(FactsNotExtracted) as raised:
            await memory.remember(ended)
        upstream.response = None
        await memory.remember(ended)
        assert ["My dog is called Bello."] == await facts(memory)

    assert "something other than a chat completion" in raised.value.detail
    assert isinstance(raised.value.__cause__, ForeignError)
    assert "canary" not in f"{raised.value} {raised.value.__cause__}"


@pytest.mark.parametrize("fault", ["status-429", "status-500", "closehead", "status-401"])
async def test_a_model_that_fails_does_not_count_as_a_failed_extraction(
    upstream: MemoryUpstream, tmp_path: Path, fault: str
) -> None:
    upstream.extraction_fault = fault
    async with open_mem0(tmp_path, upstream) as memory:
        with pytest.raises(MemoryUnavailable) as raised:
            await memory.remember(completed("My dog is called Bello."))

    assert not isinstance(raised.value, FactsNotExtracted)


async def test_dimensions_that_change_later_make_the_memory_not_ready(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream) as memory:
        await memory.store(ADA, "likes tea", 0.5)
        upstream.dimensions = 256
        for name in ("store", "remember", "recall"):
            with pytest.raises(MemoryNotReady, match="now returns 256 dimensions instead of 1536"):
                await CALLS[name](memory)
        upstream.dimensions = 1536

        assert ["likes tea"] == await facts(memory)


@pytest.mark.parametrize("number", [401, 403, 404])
@pytest.mark.parametrize(("part", "setting"), [("embedding", "embedding service"), ("extraction", "model's service")])
async def test_a_configuration_error_makes_the_memory_not_ready(
    upstream: MemoryUpstream, tmp_path: Path, number: int, part: str, setting: str
) -> None:
    async with open_mem0(tmp_path, upstream) as memory:
        setattr(upstream, f"{part}_fault", f"status-{number}")
        with pytest.raises(MemoryMisconfigured, match=f"(?i){setting} .* \\(HTTP {number}\\); check"):
            await memory.remember(completed("My dog is called Bello."))
