"""From the begin of a turn to its end: what is stored, what readers are told, and in which order."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable, HistoryWriteFailed
from application.ports.live_turns import End
from application.ports.llm import LLMContextTooLong, LLMDisconnected, LLMError, LLMUnreachable, Reply, Usage
from application.turns import generate_reply
from application.turns import running as running_turns
from domain.conversation import Message, Turn, TurnStatus
from domain.errors import (
    Cancelled,
    ClientDisconnected,
    ContextTooLong,
    InternalError,
    OutputLimit,
    ServerShuttingDown,
    TurnDeadline,
    TurnNotFound,
)
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.script import ANN, FailingHistory, Stage, message, read, staged, until

HANGS = ScriptedReply(texts=("Hel",), hangs=True)
SILENT = ScriptedReply(texts=(), hangs=True)


async def last_turn(stage: Stage) -> Turn:
    turn: Turn = (await stage.history.page(ANN, None, 1, None)).items[0]
    return turn


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_reply, "FINISH_PAUSES", (0.0, 0.0, 0.0))


async def test_a_reader_gets_the_texts_and_a_plain_end() -> None:
    async with staged() as stage:
        ended = await stage.ended(message())

        assert (["Hello", ", ", "world", "!"], End("stop", None)) == (ended.texts, ended.end)


async def test_a_reply_is_stored_whole_and_completed() -> None:
    async with staged() as stage:
        await stage.ended(message())

        turn = await last_turn(stage)
        assert (turn.reply, turn.status, turn.reason) == ("Hello, world!", TurnStatus.COMPLETED, None)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_reply_that_the_model_ended_for_a_reason_is_completed_with_it(reason: str) -> None:
    async with staged(ScriptedReply(finish_reason=reason)) as stage:
        ended = await stage.ended(message())

        turn = await last_turn(stage)
        assert End(reason, None) == ended.end
        assert (TurnStatus.COMPLETED, reason) == (turn.status, turn.reason)


async def test_an_empty_reply_is_completed_and_left_out_of_the_next_context() -> None:
    async with staged(ScriptedReply(texts=()), ScriptedReply()) as stage:
        await stage.ended(message("One"))
        assert (await last_turn(stage)).status == TurnStatus.COMPLETED
        await stage.ended(message("Two"))

    assert [each.text for each in stage.llm.asked[1]] == ["Be brief.", "Two"]


async def test_a_reader_sees_the_end_only_when_it_is_stored() -> None:
    storing, stored = anyio.Event(), anyio.Event()

    class Slow(HistoryInMemory):
        async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
            storing.set()
            await stored.wait()
            return await super().finish(turn, remember_at=remember_at)

    async with staged(history=Slow()) as stage:
        begun = await stage.send(message())
        async with begun.reader as reader:
            await storing.wait()
            while (batch := await reader.next(0.01)).texts:
                assert batch.end is None
            assert batch.end is None

            stored.set()

            assert End("stop", None) == (await reader.next(10)).end
            assert (await last_turn(stage)).status == TurnStatus.COMPLETED


async def test_an_error_before_any_text_fails_the_turn() -> None:
    error = LLMUnreachable()
    async with staged(ScriptedReply(refusal=error)) as stage:
        ended = await stage.ended(message())

        turn = await last_turn(stage)
        assert ([], End(None, error)) == (ended.texts, ended.end)
        assert (turn.reply, turn.status, turn.reason) == ("", TurnStatus.FAILED, "upstream_unreachable")


async def test_an_error_after_some_text_interrupts_the_turn_with_exactly_what_was_sent() -> None:
    error = LLMDisconnected()
    async with staged(ScriptedReply(texts=("Hel", "lo"), failure=error)) as stage:
        ended = await stage.ended(message())

        turn = await last_turn(stage)
        assert (["Hel", "lo"], End(None, error)) == (ended.texts, ended.end)
        assert (turn.reply, turn.status, turn.reason) == ("Hello", TurnStatus.INTERRUPTED, "upstream_disconnected")


async def test_a_refusal_is_known_as_one_only_before_the_model_answered() -> None:
    async with staged(ScriptedReply(refusal=LLMUnreachable()), ScriptedReply(texts=(), failure=LLMDisconnected())) as s:
        refused = await s.send(message())
        await read(refused.reader)
        cut = await s.send(message())
        await read(cut.reader)

        assert (refused.running.refused and refused.running.refused.code) == "upstream_unreachable"
        assert cut.running.refused is None


async def test_a_bug_fails_the_turn_and_tells_nothing_of_itself() -> None:
    class Buggy(ScriptedLLM):
        @asynccontextmanager
        async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
            async with super().reply(messages) as reply:
                if messages:
                    raise KeyError("canary")
                yield reply

    async with staged(llm=Buggy()) as stage:
        ended = await stage.ended(message())

        error = stage.observer.turns[0][1]
        assert isinstance(error, InternalError)
        assert isinstance(stage.observer.causes[0], KeyError)
        assert (ended.end.error and ended.end.error.detail) == "The service made a mistake."
        assert (await last_turn(stage)).reason == "internal_error"


@pytest.mark.parametrize(
    ("script", "status"), [(SILENT, TurnStatus.FAILED), (HANGS, TurnStatus.INTERRUPTED)], ids=["silent", "some text"]
)
async def test_a_turn_that_takes_too_long_is_ended(script: ScriptedReply, status: TurnStatus) -> None:
    async with staged(script, deadline=0.05) as stage:
        ended = await stage.ended(message())

        turn = await last_turn(stage)
        assert isinstance(ended.end.error, TurnDeadline)
        assert ended.end.error.detail == "The turn took longer than 0.05 seconds."
        assert (status, "turn_deadline") == (turn.status, turn.reason)
        assert stage.llm.open == 0


async def test_a_reply_that_grows_too_long_is_cut_at_the_last_text_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_turns, "MAX_REPLY_BYTES", 10)
    async with staged(ScriptedReply(texts=("ééé", "ab", "ccc", "more"), hangs=True)) as stage:
        ended = await stage.ended(message())

        turn = await last_turn(stage)
        assert isinstance(ended.end.error, OutputLimit)
        assert ended.texts == ["ééé", "ab"]
        assert (turn.reply, turn.status, turn.reason) == ("éééab", TurnStatus.INTERRUPTED, "output_limit")
        assert stage.llm.open == 0


async def test_a_reply_of_the_greatest_length_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_turns, "MAX_REPLY_BYTES", 10)
    async with staged(ScriptedReply(texts=("ééé", "abcd"))) as stage:
        assert End("stop", None) == (await stage.ended(message())).end


async def test_texts_that_come_together_are_cut_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_turns, "MAX_REPLY_BYTES", 5)

    class AllAtOnce(Reply):
        finish_reason = ""
        usage = None

        async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
            yield ["ab", "cd", "ef", "gh"]

    class Burst(ScriptedLLM):
        @asynccontextmanager
        async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
            yield AllAtOnce()

    async with staged(llm=Burst()) as stage:
        assert (await stage.ended(message())).texts == ["ab", "cd"]


async def test_a_context_that_proves_too_long_is_tried_once_more_with_half_the_budget() -> None:
    async with staged(*[ScriptedReply()] * 6, ScriptedReply(refusal=LLMContextTooLong()), ScriptedReply(),
                      context_tokens=200) as stage:  # fmt: skip
        for number in range(6):
            await stage.ended(message(f"Question {number}"))

        ended = await stage.ended(message("Now"))

        whole, half = stage.llm.asked[-2:]
        assert End("stop", None) == ended.end
        assert whole[0] == half[0]
        assert whole[-1] == half[-1]
        assert whole[len(whole) - len(half) + 1 :] == half[1:]
        assert 1 < len(half) - 1 < len(whole) - 1


async def test_a_context_that_is_too_long_even_at_half_the_budget_is_refused_as_such() -> None:
    async with staged(ScriptedReply(refusal=LLMContextTooLong())) as stage:
        ended = await stage.ended(message())

        assert isinstance(ended.end.error, ContextTooLong)
        assert len(stage.llm.asked) == 2
        assert ((t := await last_turn(stage)).status, t.reason) == (TurnStatus.FAILED, "context_too_long")


async def test_only_the_latest_finished_turns_of_the_conversation_are_the_context() -> None:
    scripts = [
        ScriptedReply(texts=("One!",)),
        ScriptedReply(refusal=LLMUnreachable()),
        ScriptedReply(texts=("Three!",)),
    ]
    async with staged(*scripts) as stage:
        for text in ("One", "Two", "Three"):
            await stage.ended(message(text))
        await stage.ended(message("Four"))

    assert [each.text for each in stage.llm.asked[-1]] == ["Be brief.", "One", "One!", "Three", "Three!", "Four"]


async def test_a_history_that_can_not_be_read_fails_the_turn_and_the_model_is_not_asked() -> None:
    async with staged(history=FailingHistory({"latest": [HistoryUnavailable()]})) as stage:
        ended = await stage.ended(message())

        assert (ended.end.error and ended.end.error.code) == "history_unavailable"
        assert (await last_turn(stage)).reason == "history_unavailable"
        assert stage.llm.asked == []


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("error", [HistoryUnavailable(), RuntimeError("a bug")])
async def test_an_end_that_can_not_be_stored_at_first_is_stored_again(error: Exception) -> None:
    async with staged(history=FailingHistory({"finish": [error, error]})) as stage:
        ended = await stage.ended(message())

        assert End("stop", None) == ended.end
        assert (await last_turn(stage)).status == TurnStatus.COMPLETED
        assert [("storing how a turn ended", error)] * 2 == stage.observer.failures


@pytest.mark.usefixtures("no_pauses")
async def test_an_end_that_can_not_be_stored_is_not_told_as_a_success() -> None:
    async with staged(history=FailingHistory({"finish": [HistoryUnavailable()] * 3})) as stage:
        ended = await stage.ended(message())

        assert isinstance(ended.end.error, HistoryWriteFailed)
        assert (await last_turn(stage)).status == TurnStatus.IN_PROGRESS


async def test_a_turn_that_is_deleted_while_it_runs_ends_as_cancelled_and_leaves_nothing() -> None:
    async with staged(HANGS) as stage:
        begun = await stage.send(message())
        await until(lambda: bool(begun.running.texts))
        await stage.history.clear(ANN, None)
        await stage.live_turns.discard(ANN, None)

        ended = await read(begun.reader)

        assert isinstance(ended.end.error, Cancelled)
        with pytest.raises(TurnNotFound):
            await stage.history.get(begun.running.turn.id)
        assert stage.llm.open == 0


async def test_a_turn_that_is_deleted_just_before_its_end_does_not_come_back() -> None:
    class Deleting(HistoryInMemory):
        async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
            await self.clear(turn.user_id, None)
            return await super().finish(turn, remember_at=remember_at)

    async with staged(history=Deleting()) as stage:
        ended = await stage.ended(message())

        assert isinstance(ended.end.error, Cancelled)
        assert list((await stage.history.page(ANN, None, 50, None)).items) == []


async def test_a_stop_before_any_text_interrupts_the_turn() -> None:
    async with staged(SILENT) as stage:
        begun = await stage.send(message())
        await begun.running.answered.wait()

        await stage.live_turns.stop(begun.running.turn.id)

        turn = await last_turn(stage)
        assert (turn.reply, turn.status, turn.reason) == ("", TurnStatus.INTERRUPTED, "cancelled")


async def test_a_stop_at_the_very_begin_interrupts_the_turn() -> None:
    async with staged(SILENT) as stage:
        begun = await stage.send(message())

        await stage.live_turns.stop(begun.running.turn.id)

        assert ((t := await last_turn(stage)).status, t.reason) == (TurnStatus.INTERRUPTED, "cancelled")


@pytest.mark.parametrize("first", [Cancelled(), ClientDisconnected(), ServerShuttingDown()])
async def test_the_first_who_wants_the_turn_to_end_is_its_reason(first: Cancelled) -> None:
    async with staged(HANGS) as stage:
        begun = await stage.send(message())
        await until(lambda: bool(begun.running.texts))
        for interruption in (first, Cancelled(), ClientDisconnected(), ServerShuttingDown()):
            begun.running.stop(interruption)
        await begun.running.ended.wait()

        assert first.code == (await last_turn(stage)).reason


async def test_an_end_is_stored_although_the_turn_was_cancelled() -> None:
    class Slow(HistoryInMemory):
        async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
            await anyio.sleep(0.02)
            return await super().finish(turn, remember_at=remember_at)

    async with staged(HANGS, history=Slow()) as stage:
        begun = await stage.send(message())
        await until(lambda: bool(begun.running.texts))
        async with begun.reader:
            pass
        await begun.running.ended.wait()

        turn = await last_turn(stage)
        assert (turn.reply, turn.reason) == ("Hel", "client_disconnected")


async def test_the_observer_is_told_of_a_turn_once_with_its_figures() -> None:
    async with staged() as stage:
        await stage.ended(message())

        [(turn, error, figures)] = stage.observer.turns
        assert (turn.status, error) == (TurnStatus.COMPLETED, None)
        assert (4, Usage(10, 4)) == (figures.texts, figures.usage)
        assert figures.first_text_seconds is not None
        assert 0 <= figures.first_text_seconds <= figures.seconds


async def test_a_turn_without_text_has_no_time_to_its_first_text() -> None:
    error: LLMError = LLMUnreachable()
    async with staged(ScriptedReply(refusal=error)) as stage:
        await stage.ended(message())

        [(_, told, figures)] = stage.observer.turns
        assert (error, None, 0, None) == (told, figures.first_text_seconds, figures.texts, figures.usage)


async def test_an_end_that_is_being_stored_is_stored_although_the_whole_application_is_cancelled() -> None:
    storing = anyio.Event()

    class Slow(HistoryInMemory):
        async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
            storing.set()
            await anyio.sleep(0.02)
            return await super().finish(turn, remember_at=remember_at)

    history = Slow()
    with anyio.CancelScope() as everything:
        async with staged(history=history) as stage:
            await stage.send(message())
            await storing.wait()
            everything.cancel()
            await anyio.sleep_forever()

    assert [turn.status for turn in (await history.page(ANN, None, 50, None)).items] == [TurnStatus.COMPLETED]


async def test_a_context_that_proves_too_long_after_some_text_is_not_asked_again() -> None:
    async with staged(ScriptedReply(texts=("Hel", "lo"), failure=LLMContextTooLong()), ScriptedReply()) as stage:
        ended = await stage.ended(message())

        assert ["Hel", "lo"] == ended.texts
        assert isinstance(ended.end.error, LLMContextTooLong)
        assert len(stage.llm.asked) == 1


async def test_an_error_that_is_kept_holds_nothing_of_what_led_to_it() -> None:
    async with staged(ScriptedReply(refusal=LLMContextTooLong())) as stage:
        ended = await stage.ended(message())

        assert ended.end.error is not None
        kept = ended.end.error
        assert (kept.__traceback__, kept.__cause__, kept.__context__) == (None, None, None)
