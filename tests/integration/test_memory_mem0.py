"""Mem0's library: remembering, and faults of the model's service, beyond the contract suite."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.memory_mem0 import MemoryMem0
from application.ports.memory import FactsNotExtracted, MemoryRefused, MemoryUnavailable
from domain.memory import MAX_FACT_CHARS
from tests.harness.mem0_memory import ADA, SECRET, completed, facts
from tests.harness.memory_upstream import API_KEY, MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.servers import NOBODY

pytestmark = pytest.mark.server

FAULTS = ("status-500", "status-429", "status-401", "closehead", "garbage", "html")


@pytest.fixture
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


@pytest.fixture
async def memory(upstream: MemoryUpstream, tmp_path: Path) -> AsyncIterator[MemoryMem0]:
    async with open_mem0(tmp_path, upstream) as memory:
        yield memory


# Remembering


async def test_facts_are_extracted_from_a_turn(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    upstream.extract = lambda _: ["Has a dog called Bello", "Lives in Vienna"]
    turn = completed("Bello and I moved to Vienna.")
    await memory.remember(turn)

    assert {"Has a dog called Bello", "Lives in Vienna"} == set(await facts(memory))


async def test_a_query_of_the_base_url_stays_behind_the_path(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream, base_url=f"{upstream.base_url}?api-version=1") as memory:
        await memory.remember(completed("I have a dog."))

    paths = {request.path for request in upstream.requests}
    assert {"/v1/chat/completions?api-version=1", "/v1/embeddings?api-version=1"} == paths


async def test_extraction_gets_both_messages_and_our_instructions(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    await memory.remember(completed("Yes, exactly.", "So your dog is called Bello."))

    assert "user: Yes, exactly.\nassistant: So your dog is called Bello." in upstream.prompts[0]
    assert "about the user that the user has stated" in upstream.prompts[0]


async def test_extraction_gets_no_messages_of_earlier_turns(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    """They may have been deleted meanwhile, also by another process, and the adapter would not know."""
    upstream.extract = lambda _: []
    await memory.remember(completed(f"My word is {SECRET}."))
    await memory.remember(completed("And now?"))

    assert SECRET in upstream.prompts[0]
    assert SECRET not in upstream.prompts[1]


async def test_without_extraction_only_the_users_message_is_kept(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream, infer=False) as memory:
        await memory.remember(completed("My dog is called Bello.", "What a lovely name."))
        await memory.remember(completed("nul \0 and half \ud83d a character"))
        await memory.remember(completed("x" * 5_000))
        await memory.remember(completed("What is my dog called?"))

        assert ["x" * MAX_FACT_CHARS, "nul  and half ? a character", "My dog is called Bello."] == await facts(memory)
    assert () == tuple(upstream.prompts)


@pytest.mark.parametrize(
    "answer", ['{"memory": []}', '{"memory": null}', '```json\n{"memory": []}\n```', 'Nothing: {"memory": []}']
)
async def test_finding_no_facts_is_no_error(memory: MemoryMem0, upstream: MemoryUpstream, answer: str) -> None:
    upstream.answer = answer
    await memory.remember(completed("My dog is called Bello."))

    assert [] == await facts(memory)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I am sorry, but I can not.",
        "[]",
        "{}",
        "```json\n{",
        '["tea"]',
        '{"memory": [{"id": "0", "text": "Has a dog"}, {"id": "1", "te',
        '{"memory": "Has a dog"}',
        '{"memory": ["Has a dog"]}',
        '{"memory": [{"id": "0", "text": "Has a dog"}, {"id": "1"}]}',
        '{"facts": ["Has a dog"]}',
        "[" * 10_000,
        None,
    ],
    ids=lambda answer: repr(answer)[:30],
)
async def test_a_reply_that_is_not_a_list_of_facts_is_an_error_until_the_model_recovers(
    memory: MemoryMem0, upstream: MemoryUpstream, answer: str | None
) -> None:
    upstream.answer = [{"type": "text", "text": ""}] if answer is None else answer
    turn = completed("My dog is called Bello.")
    with pytest.raises(FactsNotExtracted) as raised:
        await memory.remember(turn)
    assert [] == await facts(memory)

    upstream.answer = None
    await memory.remember(turn)
    assert ["My dog is called Bello."] == await facts(memory)
    assert "Has a dog" not in str(raised.value)


async def test_long_messages_are_truncated(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    await memory.remember(completed("word " * 9_000, "word " * 9_000))
    sent = [text for request in upstream.requests for text in request.body.get("input", [])]

    assert max(map(len, sent)) <= MAX_FACT_CHARS
    assert max(map(len, upstream.prompts)) < 20_000


# Faults of the model's service


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failing_embedder_makes_memory_unavailable(
    memory: MemoryMem0, upstream: MemoryUpstream, fault: str
) -> None:
    await memory.store(ADA, "likes tea", 0.5)
    upstream.embedding_fault = fault
    for call in (memory.store(ADA, "x", 0.5), memory.recall(ADA, "tea", 5), memory.remember(completed("x"))):
        with pytest.raises(MemoryUnavailable):
            await call

    upstream.embedding_fault = ""
    assert ["likes tea"] == [one.memory.fact for one in await memory.recall(ADA, "tea", 5)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failing_extraction_makes_memory_unavailable_until_it_recovers(
    memory: MemoryMem0, upstream: MemoryUpstream, fault: str
) -> None:
    turn = completed("My dog is called Bello.")
    upstream.extraction_fault = fault
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)

    upstream.extraction_fault = ""
    await memory.remember(turn)
    assert ["My dog is called Bello."] == await facts(memory)


async def test_a_turn_that_the_service_rejects_is_refused(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    upstream.extraction_fault = "status-400"
    with pytest.raises(MemoryRefused):
        await memory.remember(completed("My dog is called Bello."))


@pytest.mark.parametrize("refused", ["temperature", "max_tokens", "top_p"])
async def test_rejected_parameters_are_left_out(memory: MemoryMem0, upstream: MemoryUpstream, refused: str) -> None:
    upstream.refused_parameters = {refused}
    await memory.remember(completed("My dog is called Bello."))
    await memory.remember(completed("My cat is called Minka."))

    assert ["My cat is called Minka.", "My dog is called Bello."] == await facts(memory)
    assert 3 == len(upstream.prompts)


async def test_facts_that_cannot_be_embedded_are_not_lost(memory: MemoryMem0, upstream: MemoryUpstream) -> None:
    def extract_and_fail(_: str) -> list[str]:
        upstream.embedding_fault = "status-500"
        return ["Has a dog called Bello"]

    turn = completed("My dog is called Bello.")
    upstream.extract = extract_and_fail
    with pytest.raises(MemoryUnavailable):
        await memory.remember(turn)

    upstream.extract, upstream.embedding_fault = lambda _: ["Has a dog called Bello"], ""
    await memory.remember(turn)
    assert ["Has a dog called Bello"] == await facts(memory)


async def test_a_service_that_hangs_times_out(upstream: MemoryUpstream, tmp_path: Path) -> None:
    async with open_mem0(tmp_path, upstream, llm_timeout=0.3, embedding_timeout=0.3) as memory:
        upstream.extraction_fault = "hanghead"
        with pytest.raises(MemoryUnavailable):
            await memory.remember(completed("x"))
        upstream.embedding_fault = "hanghead"
        for call in (memory.store(ADA, "x", 0.5), memory.recall(ADA, "x", 5)):
            with pytest.raises(MemoryUnavailable):
                await call


@pytest.mark.parametrize("fault", ["status-400", "status-500", "garbage"])
async def test_errors_and_logs_contain_neither_text_nor_keys(
    memory: MemoryMem0, upstream: MemoryUpstream, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upstream.extraction_fault = fault
    with pytest.raises((MemoryUnavailable, MemoryRefused)) as raised:
        await memory.remember(completed(f"My word is {SECRET}."))
    await memory.store(ADA, f"knows {SECRET}", 0.5)
    await memory.forget_all(ADA)
    text = f"{raised.value} {raised.value.__cause__}"

    assert "mem0.exceptions.LLMError from openai." in text
    assert not any(secret in text for secret in (SECRET, API_KEY, "secret reason"))
    libraries = ("mem0", "qdrant", "psycopg")
    assert [] == [record for record in caplog.records if record.name.startswith(libraries)]


async def test_another_services_key_in_the_environment_is_ignored(
    upstream: MemoryUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "other-key")
    monkeypatch.setenv("OPENAI_API_KEY", "other-key")
    monkeypatch.setenv("OPENAI_BASE_URL", NOBODY)
    async with open_mem0(tmp_path, upstream) as memory:
        await memory.remember(completed("My dog is called Bello."))

    assert {f"Bearer {API_KEY}"} == {request.headers["authorization"] for request in upstream.requests}
