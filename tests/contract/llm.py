"""The contract suite of LLM."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from pathlib import Path

import anyio
import pytest

from application.ports.llm import (
    LLM,
    LLMAuthFailed,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMInvalid,
    LLMRateLimited,
    LLMTruncated,
)
from domain.conversation import Message, Role, Usage
from domain.errors import ChatError, OutputLimit
from tests.contract.suite import Suite

MESSAGES = [Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Grüße, 世界")]
DELTAS = ["Hello", ", ", "world", "!"]
UNSTORABLE_DELTAS = ["", "nul \0 inside", "lone \ud83d high", "lone \ude00 low"]


class Behaviour(StrEnum):
    """What the model does. Unless stated otherwise it streams DELTAS, finishes with "stop" and reports Usage(10, 4).

    Only tests with REPORTS_USAGE depend on that usage.

    The values are model names of this repository's scripted upstream, and mean nothing to other adapters.
    """

    COMPLETES = "ok"
    REACHES_ITS_TOKEN_LIMIT = "len"
    """Finishes with "length"."""
    FILTERS_CONTENT = "content_filter"
    """Finishes with "content_filter"."""
    REPORTS_USAGE = "usage"
    """As COMPLETES. A provider that never reports usage cannot do this."""
    REPORTS_NO_USAGE = "nousage"
    SAYS_NOTHING = "empty"
    """Finishes without any text."""
    SENDS_UNSTORABLE_TEXT = "unicode"
    """Streams UNSTORABLE_DELTAS."""

    LIMITS_THE_RATE = "429-60"
    """Rejects the call and asks to wait 60 s."""
    REJECTS_THE_CREDENTIALS = "401"
    FAILS = "500"
    HAS_A_SHORT_CONTEXT = "context-0"
    """Rejects the call since the messages are too long."""
    DISCONNECTS_AT_ONCE = "closehead"
    """Closes the connection instead of answering."""
    SENDS_NO_STREAM = "html"

    DISCONNECTS_AFTER_2 = "rst-2"
    """Resets the connection after two deltas."""
    FAILS_AFTER_2 = "err-2"
    """Sends an error after two deltas."""
    SENDS_INVALID_DATA_AFTER_2 = "badjson-2"
    SENDS_TOO_MUCH_AFTER_2 = "bigline-2"
    """Sends an event that exceeds the adapter's buffer (30 MB is enough for ours) after two deltas."""
    HANGS_AFTER_2 = "hang-2"
    """Sends nothing more after two deltas."""
    ENDS_WITHOUT_A_REASON = "nodone"
    """Ends the stream after all deltas, without a finish reason."""
    ENDS_WITHOUT_A_LAST_EVENT = "nodone-bare"
    """Ends the stream within an event, e.g. in the middle of a line, or without the empty line that ends it in SSE."""


class LLMUnderTest(ABC):
    """Makes LLMs and observes the model behind them, e.g. a fake server that is started by `opened`."""

    @abstractmethod
    def llm(self, behaviour: Behaviour) -> LLM:
        """Return an LLM whose model behaves like this.

        If the model can never do so, call `pytest.skip` with the reason, e.g. a model in this process that cannot
        disconnect.
        """
        ...

    @abstractmethod
    def received(self) -> Sequence[Sequence[Message]]:
        """Return the messages of each call that the models have received."""
        ...

    @abstractmethod
    def open_calls(self) -> int:
        """Return the number of calls that the models are still serving."""
        ...

    async def until_closed(self) -> None:
        with anyio.fail_after(5):
            while self.open_calls():
                await anyio.sleep(0.005)


async def collect(llm: LLM, deltas: list[str]) -> None:
    async with llm.reply(MESSAGES) as reply:
        async for batch in reply:
            deltas += batch


async def read_all(llm: LLM) -> list[str]:
    deltas: list[str] = []
    await collect(llm, deltas)
    return deltas


class LLMContract(Suite[LLMUnderTest]):
    """Run by every LLM."""

    @pytest.fixture
    async def model(self, tmp_path: Path) -> AsyncIterator[LLMUnderTest]:
        async with self.opened(tmp_path) as model:
            yield model

    async def test_deltas_arrive_in_order(self, model: LLMUnderTest) -> None:
        assert await read_all(model.llm(Behaviour.COMPLETES)) == DELTAS

    async def test_the_model_receives_the_messages_unchanged(self, model: LLMUnderTest) -> None:
        await read_all(model.llm(Behaviour.COMPLETES))
        assert model.received() == [MESSAGES]

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [
            (Behaviour.COMPLETES, "stop"),
            (Behaviour.REACHES_ITS_TOKEN_LIMIT, "length"),
            (Behaviour.FILTERS_CONTENT, "content_filter"),
            (Behaviour.ENDS_WITHOUT_A_REASON, "unknown"),
        ],
    )
    async def test_a_finished_reply_has_a_finish_reason(
        self, model: LLMUnderTest, behaviour: Behaviour, reason: str
    ) -> None:
        async with model.llm(behaviour).reply(MESSAGES) as reply:
            async for _ in reply:
                pass
            assert reply.finish_reason == reason

    @pytest.mark.parametrize(
        ("behaviour", "usage"), [(Behaviour.REPORTS_USAGE, Usage(10, 4)), (Behaviour.REPORTS_NO_USAGE, None)]
    )
    async def test_a_finished_reply_has_the_reported_usage(
        self, model: LLMUnderTest, behaviour: Behaviour, usage: Usage | None
    ) -> None:
        async with model.llm(behaviour).reply(MESSAGES) as reply:
            async for _ in reply:
                pass
            assert reply.usage == usage

    async def test_text_that_cannot_be_stored_is_replaced_or_left_out(self, model: LLMUnderTest) -> None:
        deltas = await read_all(model.llm(Behaviour.SENDS_UNSTORABLE_TEXT))
        assert all(deltas)
        text = "".join(deltas)
        assert [word for word in ("nul", "inside", "high", "low") if word in text] == ["nul", "inside", "high", "low"]
        assert "\0" not in text
        text.encode()  # raises if there is a lone surrogate

    async def test_an_empty_reply_has_no_deltas(self, model: LLMUnderTest) -> None:
        assert await read_all(model.llm(Behaviour.SAYS_NOTHING)) == []

    @pytest.mark.parametrize(
        ("behaviour", "error"),
        [
            (Behaviour.LIMITS_THE_RATE, LLMRateLimited),
            (Behaviour.REJECTS_THE_CREDENTIALS, LLMAuthFailed),
            (Behaviour.FAILS, LLMFailed),
            (Behaviour.HAS_A_SHORT_CONTEXT, LLMContextTooLong),
            (Behaviour.DISCONNECTS_AT_ONCE, LLMDisconnected),
            (Behaviour.SENDS_NO_STREAM, LLMInvalid),
        ],
    )
    async def test_a_rejected_call_raises_on_entering(
        self, model: LLMUnderTest, behaviour: Behaviour, error: type[ChatError]
    ) -> None:
        with pytest.raises(error):
            await model.llm(behaviour).reply(MESSAGES).__aenter__()
        await model.until_closed()

    async def test_a_rate_limit_carries_its_retry_after(self, model: LLMUnderTest) -> None:
        with pytest.raises(LLMRateLimited) as raised:
            await read_all(model.llm(Behaviour.LIMITS_THE_RATE))
        assert raised.value.retry_after == 60

    @pytest.mark.parametrize(
        ("behaviour", "error"),
        [
            (Behaviour.DISCONNECTS_AFTER_2, LLMDisconnected),
            (Behaviour.FAILS_AFTER_2, LLMFailed),
            (Behaviour.SENDS_INVALID_DATA_AFTER_2, LLMInvalid),
            (Behaviour.SENDS_TOO_MUCH_AFTER_2, OutputLimit),
        ],
    )
    async def test_deltas_before_a_failure_are_delivered(
        self, model: LLMUnderTest, behaviour: Behaviour, error: type[ChatError]
    ) -> None:
        deltas: list[str] = []
        with pytest.raises(error) as raised:
            await collect(model.llm(behaviour), deltas)
        assert deltas == DELTAS[:2]
        assert not (isinstance(raised.value, LLMError) and raised.value.repeatable)
        await model.until_closed()

    async def test_a_reply_whose_end_is_not_marked_is_truncated(self, model: LLMUnderTest) -> None:
        with pytest.raises(LLMTruncated):
            await read_all(model.llm(Behaviour.ENDS_WITHOUT_A_LAST_EVENT))

    async def test_leaving_early_closes_the_call(self, model: LLMUnderTest) -> None:
        async with model.llm(Behaviour.HANGS_AFTER_2).reply(MESSAGES) as reply:
            async for _ in reply:
                break
        await model.until_closed()

    async def test_cancelling_closes_the_call(self, model: LLMUnderTest) -> None:
        deltas: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, model.llm(Behaviour.HANGS_AFTER_2), deltas)
            while deltas != DELTAS[:2]:
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()
        await model.until_closed()

    async def test_concurrent_calls_are_independent(self, model: LLMUnderTest) -> None:
        llm = model.llm(Behaviour.COMPLETES)
        replies: list[list[str]] = []

        async def read() -> None:
            replies.append(await read_all(llm))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(read)
        assert replies == [DELTAS] * 5
