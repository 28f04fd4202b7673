"""An independent judge of clients of language models finds nothing to say about the adapter and its wrapper."""

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


async def texts_of(llm: LLM) -> list[str]:
    async with llm.reply(MESSAGES) as reply:
        return [text async for texts in reply for text in texts]


async def judge(llmock: LLMock, *, strict: bool = False) -> None:
    await anyio.to_thread.run_sync(partial(llmock.assert_resilient, strict=strict))


async def test_an_ordinary_reply(llm: LLM, llmock: LLMock) -> None:
    llmock.reply("Grüße aus Köln")
    assert "".join(await texts_of(llm)) == "Grüße aus Köln"
    await judge(llmock, strict=True)


async def test_a_rate_limit_is_waited_for(llm: LLM, llmock: LLMock) -> None:
    llmock.rate_limit(retry_after=1)
    assert await texts_of(llm)
    await judge(llmock, strict=True)


async def test_a_passing_failure_is_survived(llm: LLM, llmock: LLMock) -> None:
    llmock.fail(503)
    assert await texts_of(llm)
    await judge(llmock, strict=True)


async def test_an_outage_is_told(llm: LLM, llmock: LLMock) -> None:
    llmock.outage()
    with pytest.raises(LLMError):
        await texts_of(llm)
    await judge(llmock, strict=True)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_not_tried_again(llm: LLM, llmock: LLMock, status: int) -> None:
    llmock.fail(status)
    with pytest.raises(LLMAuthFailed):
        await texts_of(llm)
    await judge(llmock, strict=True)


async def test_a_context_that_is_too_long_is_not_tried_again(llm: LLM, llmock: LLMock) -> None:
    llmock.context_overflow()
    with pytest.raises(LLMContextTooLong):
        await texts_of(llm)
    await judge(llmock, strict=True)


async def test_a_truncated_stream_is_not_accepted(llm: LLM, llmock: LLMock) -> None:
    llmock.truncate(after_chunks=2)
    with pytest.raises(LLMTruncated):
        await texts_of(llm)
    assert await texts_of(llm)  # the judge takes a caller that does not ask again for one that noticed nothing
    await judge(llmock)


async def test_a_corrupted_chunk_is_not_ignored(llm: LLM, llmock: LLMock) -> None:
    llmock.corrupt(after_chunks=2)
    with pytest.raises(LLMInvalid):
        await texts_of(llm)
    await judge(llmock)


async def test_a_dropped_connection_is_told(llm: LLM, llmock: LLMock) -> None:
    llmock.disconnect(after_chunks=2)
    with pytest.raises(LLMDisconnected):
        await texts_of(llm)
    await judge(llmock)


async def test_a_stalled_stream_is_not_sat_through(llm: LLM, llmock: LLMock) -> None:
    llmock.stall(after_chunks=2, seconds=5)
    with pytest.raises(LLMIdle):
        await texts_of(llm)
    await judge(llmock)
