"""Retries of calls to the model: their conditions, number and delays."""

import anyio
import pytest

from adapters.llm_retrying import RetryingLLM
from application.ports.llm import LLMDisconnected, LLMError, LLMRateLimited, LLMUnreachable
from domain.conversation import Message, Role
from tests.harness.fakes import ScriptedLLM, ScriptedReply

MESSAGES = [Message(Role.USER, "Hello")]


def unreachable(retry_after: float | None = 0.0) -> LLMUnreachable:
    error = LLMUnreachable(retry_after=retry_after)
    error.repeatable = True
    return error


async def deltas_of(llm: ScriptedLLM, retry_budget: float = 10) -> list[str]:
    async with RetryingLLM(llm, retry_budget=retry_budget, random=lambda: 0).reply(MESSAGES) as reply:
        return [delta async for deltas in reply for delta in deltas]


async def error_of(llm: ScriptedLLM, retry_budget: float = 10) -> LLMError:
    with pytest.raises(LLMError) as raised:
        await deltas_of(llm, retry_budget)
    return raised.value


async def test_a_call_that_failed_before_the_reply_began_is_retried() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable()), ScriptedReply(deltas=["Hi"]))
    assert await deltas_of(llm) == ["Hi"]
    assert llm.asked == [MESSAGES, MESSAGES]


async def test_a_call_is_retried_only_once() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable()))
    assert (await error_of(llm)).attempts == 2
    assert len(llm.asked) == 2


async def test_a_call_that_may_have_been_processed_is_not_retried() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMDisconnected()))
    assert (await error_of(llm)).attempts == 1
    assert len(llm.asked) == 1


async def test_a_reply_that_has_begun_is_not_retried() -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=[], failure=unreachable()))
    await error_of(llm)
    assert len(llm.asked) == 1


async def test_a_long_retry_after_is_left_to_the_caller() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMRateLimited(retry_after=60)))
    with anyio.fail_after(1):
        error = await error_of(llm)
    assert (error.retry_after, error.attempts, len(llm.asked)) == (60, 1, 1)


async def test_retry_after_is_honoured() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=0.3)), ScriptedReply())
    before = anyio.current_time()
    await deltas_of(llm)
    assert anyio.current_time() - before >= 0.3


async def test_the_retry_backs_off_if_there_is_no_retry_after() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=None)), ScriptedReply())
    before = anyio.current_time()
    await deltas_of(llm)
    assert anyio.current_time() - before >= 0.25


async def test_no_attempt_starts_after_the_retry_budget() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=0.3)))
    assert (await error_of(llm, retry_budget=0.1)).attempts == 1
    assert len(llm.asked) == 1


async def test_a_call_can_be_cancelled_while_it_backs_off() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=4)))
    with anyio.move_on_after(0.1):
        await deltas_of(llm)
    assert (len(llm.asked), llm.open) == (1, 0)
