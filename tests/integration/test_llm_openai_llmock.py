"""llmock, an independent test server that judges clients of language models, accepts the adapter with its retries."""

from collections.abc import AsyncIterator
from functools import partial

import anyio.to_thread
import pytest
from llmock.pytest_plugin import LLMock

from adapters.llm_openai import LLMOpenAI
from adapters.llm_retrying import RetryingLLM
from application.ports.llm import (
    LLM,
    LLMAuthFailed,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMIdle,
    LLMInvalid,
    LLMTruncated,
)
from domain.conversation import Message, Role

pytestmark = pytest.mark.server

MESSAGES = [Message(Role.USER, "Hello")]


@pytest.fixture
async def llm(llmock: LLMock) -> AsyncIterator[LLM]:
    openai = LLMOpenAI(
        api_key="test",
        base_url=llmock.base_url(),
        model="gpt-4o-mini",
        temperature=0.5,
        max_tokens=100,
        first_byte_timeout=5,
        idle_timeout=1,
    )
    yield RetryingLLM(openai)
    await openai.close()


async def deltas_of(llm: LLM) -> list[str]:
    async with llm.reply(MESSAGES) as reply:
        return [delta async for deltas in reply for delta in deltas]


async def assert_resilient(llmock: LLMock, *, strict: bool = False) -> None:
    await anyio.to_thread.run_sync(partial(llmock.assert_resilient, strict=strict))


async def test_a_plain_reply(llm: LLM, llmock: LLMock) -> None:
    llmock.reply("Grüße aus Köln")
    assert "".join(await deltas_of(llm)) == "Grüße aus Köln"
    await assert_resilient(llmock, strict=True)


async def test_a_rate_limit_is_retried(llm: LLM, llmock: LLMock) -> None:
    llmock.rate_limit(retry_after=1)
    assert await deltas_of(llm)
    await assert_resilient(llmock, strict=True)


async def test_a_temporary_failure_is_retried(llm: LLM, llmock: LLMock) -> None:
    llmock.fail(503)
    assert await deltas_of(llm)
    await assert_resilient(llmock, strict=True)


async def test_an_outage_is_an_error(llm: LLM, llmock: LLMock) -> None:
    llmock.outage()
    with pytest.raises(LLMError):
        await deltas_of(llm)
    await assert_resilient(llmock, strict=True)


@pytest.mark.parametrize("status", [401, 403])
async def test_rejected_credentials_are_not_retried(llm: LLM, llmock: LLMock, status: int) -> None:
    llmock.fail(status)
    with pytest.raises(LLMAuthFailed):
        await deltas_of(llm)
    await assert_resilient(llmock, strict=True)


async def test_a_context_that_is_too_long_is_not_retried(llm: LLM, llmock: LLMock) -> None:
    llmock.context_overflow()
    with pytest.raises(LLMContextTooLong):
        await deltas_of(llm)
    await assert_resilient(llmock, strict=True)


async def test_a_truncated_stream_is_an_error(llm: LLM, llmock: LLMock) -> None:
    llmock.truncate(after_chunks=2)
    with pytest.raises(LLMTruncated):
        await deltas_of(llm)
    assert await deltas_of(llm)  # llmock assumes that a client that does not call again has not noticed
    await assert_resilient(llmock)


async def test_a_corrupted_chunk_is_an_error(llm: LLM, llmock: LLMock) -> None:
    llmock.corrupt(after_chunks=2)
    with pytest.raises(LLMInvalid):
        await deltas_of(llm)
    await assert_resilient(llmock)


async def test_a_dropped_connection_is_an_error(llm: LLM, llmock: LLMock) -> None:
    llmock.disconnect(after_chunks=2)
    with pytest.raises(LLMDisconnected):
        await deltas_of(llm)
    await assert_resilient(llmock)


async def test_a_stalled_stream_is_idle(llm: LLM, llmock: LLMock) -> None:
    llmock.stall(after_chunks=2, seconds=5)
    with pytest.raises(LLMIdle):
        await deltas_of(llm)
    await assert_resilient(llmock)
