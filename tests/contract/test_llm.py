"""Runs the suite of LLM on the adapter, its wrapper and the fake."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.llm_openai import LLMOpenAI
from adapters.llm_retrying import RetryingLLM
from application.ports.llm import (
    LLM,
    LLMAuthFailed,
    LLMContextTooLong,
    LLMDisconnected,
    LLMFailed,
    LLMInvalid,
    LLMRateLimited,
    LLMTruncated,
)
from domain.conversation import Message, Role
from domain.errors import OutputLimit
from tests.contract.llm import DELTAS, UNSTORABLE_DELTAS, Behaviour, LLMContract, LLMUnderTest
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.scripted_upstream import ScriptedUpstream

SCRIPTS = {
    Behaviour.COMPLETES: ScriptedReply(),
    Behaviour.REACHES_ITS_TOKEN_LIMIT: ScriptedReply(finish_reason="length"),
    Behaviour.FILTERS_CONTENT: ScriptedReply(finish_reason="content_filter"),
    Behaviour.REPORTS_USAGE: ScriptedReply(),
    Behaviour.REPORTS_NO_USAGE: ScriptedReply(usage=None),
    Behaviour.SAYS_NOTHING: ScriptedReply(deltas=()),
    Behaviour.SENDS_UNSTORABLE_TEXT: ScriptedReply(deltas=["nul inside", "lone high", "lone low"]),
    Behaviour.LIMITS_THE_RATE: ScriptedReply(refusal=LLMRateLimited(retry_after=60)),
    Behaviour.REJECTS_THE_CREDENTIALS: ScriptedReply(refusal=LLMAuthFailed()),
    Behaviour.FAILS: ScriptedReply(refusal=LLMFailed()),
    Behaviour.HAS_A_SHORT_CONTEXT: ScriptedReply(refusal=LLMContextTooLong()),
    Behaviour.DISCONNECTS_AT_ONCE: ScriptedReply(refusal=LLMDisconnected()),
    Behaviour.SENDS_NO_STREAM: ScriptedReply(refusal=LLMInvalid()),
    Behaviour.DISCONNECTS_AFTER_2: ScriptedReply(deltas=DELTAS[:2], failure=LLMDisconnected()),
    Behaviour.FAILS_AFTER_2: ScriptedReply(deltas=DELTAS[:2], failure=LLMFailed()),
    Behaviour.SENDS_INVALID_DATA_AFTER_2: ScriptedReply(deltas=DELTAS[:2], failure=LLMInvalid()),
    Behaviour.SENDS_TOO_MUCH_AFTER_2: ScriptedReply(deltas=DELTAS[:2], failure=OutputLimit()),
    Behaviour.HANGS_AFTER_2: ScriptedReply(deltas=DELTAS[:2], hangs=True),
    Behaviour.ENDS_WITHOUT_A_REASON: ScriptedReply(finish_reason="unknown"),
    Behaviour.ENDS_WITHOUT_A_LAST_EVENT: ScriptedReply(failure=LLMTruncated()),
}


class ScriptedModel(LLMUnderTest):
    def __init__(self) -> None:
        self.llms: list[ScriptedLLM] = []

    def llm(self, behaviour: Behaviour) -> LLM:
        self.llms.append(ScriptedLLM(SCRIPTS[behaviour]))
        return self.llms[-1]

    def received(self) -> Sequence[Sequence[Message]]:
        return [messages for llm in self.llms for messages in llm.asked]

    def open_calls(self) -> int:
        return sum(llm.open for llm in self.llms)


class OpenAIModel(LLMUnderTest):
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.llms: list[LLMOpenAI] = []

    def llm(self, behaviour: Behaviour) -> LLM:
        base_url = self.upstream.base_url
        llm = LLMOpenAI(api_key="test", base_url=base_url, model=behaviour, temperature=0.5, max_tokens=100)
        self.llms.append(llm)
        return llm

    def received(self) -> Sequence[Sequence[Message]]:
        bodies = [request.body for request in self.upstream.requests]
        return [[Message(Role(m["role"]), m["content"]) for m in body["messages"]] for body in bodies]

    def open_calls(self) -> int:
        return self.upstream.open


class RetryingModel(OpenAIModel):
    def llm(self, behaviour: Behaviour) -> LLM:
        return RetryingLLM(super().llm(behaviour))


class TestScriptedLLM(LLMContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LLMUnderTest]:
        yield ScriptedModel()


@pytest.mark.server
class TestLLMOpenAI(LLMContract):
    model_type = OpenAIModel

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LLMUnderTest]:
        async with ScriptedUpstream() as upstream:
            upstream.nasty_texts = tuple(UNSTORABLE_DELTAS)
            model = self.model_type(upstream)
            yield model
            for llm in model.llms:
                await llm.close()


class TestRetryingLLM(TestLLMOpenAI):
    model_type = RetryingModel
