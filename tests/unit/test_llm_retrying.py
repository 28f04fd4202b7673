"""How often, when and for how long a call is repeated."""

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


async def texts_of(llm: ScriptedLLM, random: float = 0) -> list[str]:
    async with RetryingLLM(llm, random=lambda: random).reply(MESSAGES) as reply:
        return [text async for texts in reply for text in texts]


async def error_of(llm: ScriptedLLM) -> LLMError:
    with pytest.raises(LLMError) as raised:
        await texts_of(llm)
    return raised.value


async def test_a_call_that_failed_before_the_answer_is_repeated() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable()), ScriptedReply(deltas=["Hi"]))
    assert await texts_of(llm) == ["Hi"]
    assert llm.asked == [MESSAGES, MESSAGES]


async def test_a_call_is_repeated_once_only() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable()))
    assert (await error_of(llm)).attempts == 2
    assert len(llm.asked) == 2


async def test_a_call_that_may_have_been_worked_on_is_not_repeated() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMDisconnected()))
    assert (await error_of(llm)).attempts == 1
    assert len(llm.asked) == 1


async def test_a_reply_that_has_begun_is_not_repeated() -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=[], failure=unreachable()))
    await error_of(llm)
    assert len(llm.asked) == 1


async def test_a_long_pause_is_left_to_the_caller() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMRateLimited(retry_after=60)))
    with anyio.fail_after(1):
        error = await error_of(llm)
    assert (error.retry_after, error.attempts, len(llm.asked)) == (60, 1, 1)


async def test_the_second_attempt_waits_as_long_as_it_was_told() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=0.3)), ScriptedReply())
    before = anyio.current_time()
    await texts_of(llm)
    assert anyio.current_time() - before >= 0.3


async def test_the_second_attempt_waits_a_little_where_it_was_not_told() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=None)), ScriptedReply())
    before = anyio.current_time()
    await texts_of(llm)
    assert anyio.current_time() - before >= 0.25


async def test_no_attempt_begins_after_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.llm_retrying.BUDGET", 0.1)
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=0.3)))
    assert (await error_of(llm)).attempts == 1


async def test_nothing_runs_on_when_the_pause_is_cancelled() -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=unreachable(retry_after=4)))
    with anyio.move_on_after(0.1):
        await texts_of(llm)
    assert (len(llm.asked), llm.open) == (1, 0)
