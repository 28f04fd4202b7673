"""What every LLM does: one suite for the fake, the adapter and the wrapper."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
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
    Usage,
)
from domain.conversation import Message, Role
from domain.errors import ChatError, OutputLimit
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.scripted_upstream import ScriptedUpstream

MESSAGES = [Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Grüße, 世界")]

SCRIPTS = {
    "ok": ScriptedReply(),
    "len": ScriptedReply(finish_reason="length"),
    "content_filter": ScriptedReply(finish_reason="content_filter"),
    "nousage": ScriptedReply(usage=None),
    "empty": ScriptedReply(texts=()),
    "429-60": ScriptedReply(refusal=LLMRateLimited(retry_after=60)),
    "401": ScriptedReply(refusal=LLMAuthFailed()),
    "500": ScriptedReply(refusal=LLMFailed()),
    "context-0": ScriptedReply(refusal=LLMContextTooLong()),
    "closehead": ScriptedReply(refusal=LLMDisconnected()),
    "html": ScriptedReply(refusal=LLMInvalid()),
    "rst-2": ScriptedReply(texts=("Hello", ", "), failure=LLMDisconnected()),
    "err-2": ScriptedReply(texts=("Hello", ", "), failure=LLMFailed()),
    "badjson-2": ScriptedReply(texts=("Hello", ", "), failure=LLMInvalid()),
    "bigline-2": ScriptedReply(texts=("Hello", ", "), failure=OutputLimit()),
    "nodone": ScriptedReply(failure=LLMTruncated()),
    "nodone-bare": ScriptedReply(failure=LLMTruncated()),
    "hang-2": ScriptedReply(texts=("Hello", ", "), hangs=True),
}
"""What the fake does where the scripted upstream is told a model's name."""


class Stage(ABC):
    """An LLM and what can be seen of the model behind it."""

    @abstractmethod
    def llm(self, behaviour: str) -> LLM: ...

    @abstractmethod
    def asked(self) -> Sequence[Sequence[Message]]: ...

    @abstractmethod
    def open_calls(self) -> int: ...

    async def until_closed(self) -> None:
        while self.open_calls():
            await anyio.sleep(0.005)


class FakeStage(Stage):
    def __init__(self) -> None:
        self.played: list[ScriptedLLM] = []

    def llm(self, behaviour: str) -> LLM:
        self.played.append(ScriptedLLM(SCRIPTS[behaviour]))
        return self.played[-1]

    def asked(self) -> Sequence[Sequence[Message]]:
        return [messages for llm in self.played for messages in llm.asked]

    def open_calls(self) -> int:
        return sum(llm.open for llm in self.played)


class OpenAIStage(Stage):
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.opened: list[LLMOpenAI] = []

    def llm(self, behaviour: str) -> LLM:
        llm = LLMOpenAI(
            api_key="test", base_url=self.upstream.base_url, model=behaviour, temperature=0.5, max_tokens=100
        )
        self.opened.append(llm)
        return llm

    def asked(self) -> Sequence[Sequence[Message]]:
        bodies = [request.body for request in self.upstream.requests]
        return [[Message(Role(m["role"]), m["content"]) for m in body["messages"]] for body in bodies]

    def open_calls(self) -> int:
        return self.upstream.open


class RetryingStage(OpenAIStage):
    def llm(self, behaviour: str) -> LLM:
        return RetryingLLM(super().llm(behaviour))


@asynccontextmanager
async def openai_stage(kind: type[OpenAIStage]) -> AsyncIterator[Stage]:
    async with ScriptedUpstream() as upstream:
        stage = kind(upstream)
        yield stage
        for llm in stage.opened:
            await llm.close()


@pytest.fixture(params=["fake", "openai", "retrying"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    if request.param == "fake":
        yield FakeStage()
    else:
        async with openai_stage(OpenAIStage if request.param == "openai" else RetryingStage) as stage:
            yield stage


async def collect(llm: LLM, texts: list[str]) -> None:
    async with llm.reply(MESSAGES) as reply:
        async for some in reply:
            texts += some


async def texts_of(llm: LLM) -> list[str]:
    texts: list[str] = []
    await collect(llm, texts)
    return texts


async def test_texts_come_in_order(stage: Stage) -> None:
    assert await texts_of(stage.llm("ok")) == ["Hello", ", ", "world", "!"]


async def test_the_messages_reach_the_model_as_they_are(stage: Stage) -> None:
    await texts_of(stage.llm("ok"))
    assert stage.asked() == [MESSAGES]


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("ok", "stop"), ("len", "length"), ("content_filter", "content_filter")]
)
async def test_a_reply_that_ended_says_why(stage: Stage, behaviour: str, reason: str) -> None:
    async with stage.llm(behaviour).reply(MESSAGES) as reply:
        async for _ in reply:
            pass
        assert reply.finish_reason == reason


@pytest.mark.parametrize(("behaviour", "usage"), [("ok", Usage(10, 4)), ("nousage", None)])
async def test_the_usage_is_known_at_the_end_where_the_service_tells(
    stage: Stage, behaviour: str, usage: Usage | None
) -> None:
    async with stage.llm(behaviour).reply(MESSAGES) as reply:
        async for _ in reply:
            pass
        assert reply.usage == usage


async def test_an_empty_reply_ends_without_texts(stage: Stage) -> None:
    assert await texts_of(stage.llm("empty")) == []


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("429-60", LLMRateLimited),
        ("401", LLMAuthFailed),
        ("500", LLMFailed),
        ("context-0", LLMContextTooLong),
        ("closehead", LLMDisconnected),
        ("html", LLMInvalid),
    ],
)
async def test_a_refusal_is_raised_on_entering(stage: Stage, behaviour: str, error: type[ChatError]) -> None:
    with pytest.raises(error):
        await stage.llm(behaviour).reply(MESSAGES).__aenter__()
    await stage.until_closed()


async def test_a_rate_limit_says_when_to_come_back(stage: Stage) -> None:
    with pytest.raises(LLMRateLimited) as raised:
        await texts_of(stage.llm("429-60"))
    assert raised.value.retry_after == 60


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("rst-2", LLMDisconnected), ("err-2", LLMFailed), ("badjson-2", LLMInvalid), ("bigline-2", OutputLimit)],
)
async def test_what_came_before_a_cut_stays_valid(stage: Stage, behaviour: str, error: type[ChatError]) -> None:
    texts: list[str] = []
    with pytest.raises(error):
        await collect(stage.llm(behaviour), texts)
    assert texts == ["Hello", ", "]
    await stage.until_closed()


@pytest.mark.parametrize("behaviour", ["nodone", "nodone-bare"])
async def test_a_reply_that_ends_without_a_reason_was_cut(stage: Stage, behaviour: str) -> None:
    with pytest.raises(LLMTruncated):
        await texts_of(stage.llm(behaviour))


async def test_leaving_early_ends_the_call(stage: Stage) -> None:
    async with stage.llm("hang-2").reply(MESSAGES) as reply:
        async for _ in reply:
            break
    with anyio.fail_after(5):
        await stage.until_closed()


async def test_cancelling_ends_the_call(stage: Stage) -> None:
    texts: list[str] = []
    with anyio.move_on_after(0.3):
        await collect(stage.llm("hang-2"), texts)
    assert texts == ["Hello", ", "]
    with anyio.fail_after(5):
        await stage.until_closed()


async def test_calls_do_not_mix(stage: Stage) -> None:
    llm = stage.llm("ok")
    heard: list[list[str]] = []

    async def listen() -> None:
        heard.append(await texts_of(llm))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(listen)
    assert heard == [["Hello", ", ", "world", "!"]] * 5
