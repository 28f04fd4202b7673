"""A turn from its begin to its end: the stored state, the events for readers, and their order."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.conversation_leases import Lease
from application.ports.history import HistoryUnavailable, HistoryWriteFailed, TurnBegin, TurnEnd
from application.ports.live_turns import Batch, End, EventLog, LiveTurnsUnavailable, Reader, Stop
from application.ports.llm import (
    AS_CONFIGURED,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMUnreachable,
    Reply,
    ReplyOptions,
)
from application.ports.turn_observer import (
    FirstDelta,
    MemoriesRecalled,
    TurnAccepted,
    TurnBegun,
    TurnEnded,
    TurnFenced,
    Where,
)
from application.turns.handle import TurnHandle
from application.turns.new_message import WhenBusy
from application.turns.running import RunningTurn
from domain.conversation import DEFAULT_CONVERSATION, Message, Turn, TurnId, TurnStatus, Usage, UserId
from domain.errors import (
    Cancelled,
    ContextTooLong,
    Failure,
    InternalError,
    OutputLimit,
    TurnDeadline,
    TurnNotFound,
    WorkerLost,
)
from domain.tokens import estimate_tokens
from tests.harness.fakes import USAGE, ScriptedLLM, ScriptedReply
from tests.harness.script import (
    ANN,
    NO_DELAYS,
    NOW,
    FailingHistory,
    HangingHistory,
    Harness,
    application,
    message,
    read,
)

ESTIMATE = Usage(15, 2, estimated=True)

HANGS = ScriptedReply(deltas=("Hel",), hangs=True)
SILENT = ScriptedReply(deltas=(), hangs=True)


async def test_a_reader_receives_the_deltas_and_the_end() -> None:
    async with application() as app:
        ended = await app.complete(message())

        assert (["Hello", ", ", "world", "!"], End("stop", None, USAGE)) == (ended.deltas, ended.end)


async def test_the_whole_reply_is_stored_as_completed() -> None:
    async with application() as app:
        await app.complete(message())

        turn = await app.last_turn()
        assert (turn.reply, turn.status, turn.reason) == ("Hello, world!", TurnStatus.COMPLETED, None)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_reply_with_another_finish_reason_is_completed_with_that_reason(reason: str) -> None:
    async with application(ScriptedReply(finish_reason=reason)) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert End(reason, None, USAGE) == ended.end
        assert (TurnStatus.COMPLETED, reason) == (turn.status, turn.reason)


async def test_an_empty_reply_is_completed_and_omitted_from_the_next_context() -> None:
    async with application(ScriptedReply(deltas=()), ScriptedReply()) as app:
        await app.complete(message("One"))
        assert (await app.last_turn()).status == TurnStatus.COMPLETED
        await app.complete(message("Two"))

    assert [each.text for each in app.llm.asked[1]] == ["Be brief.", "Two"]


async def test_readers_receive_the_end_after_it_is_stored() -> None:
    storing, stored = anyio.Event(), anyio.Event()

    class Slow(HistoryInMemory):
        async def finish(self, end: TurnEnd) -> Turn | None:
            storing.set()
            await stored.wait()
            return await super().finish(end)

    async with application(history=Slow()) as app, await app.send(message()) as handle:
        await storing.wait()
        while (batch := await handle.next(0.01)) is not None:
            assert batch.end is None

        stored.set()

        batch = await handle.next(10)
        assert batch is not None
        assert End("stop", None, USAGE) == batch.end
        assert (await app.last_turn()).status == TurnStatus.COMPLETED


async def test_an_error_before_any_text_fails_the_turn() -> None:
    error = LLMUnreachable()
    async with application(ScriptedReply(refusal=error)) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert ([], End(None, Failure.of(error))) == (ended.deltas, ended.end)
        assert (turn.reply, turn.status, turn.reason) == ("", TurnStatus.FAILED, "upstream_unreachable")


async def test_an_error_after_some_text_interrupts_the_turn_and_stores_exactly_the_text_that_was_sent() -> None:
    error = LLMDisconnected()
    async with application(ScriptedReply(deltas=("Hel", "lo"), failure=error)) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert (["Hel", "lo"], End(None, Failure.of(error), ESTIMATE)) == (ended.deltas, ended.end)
        assert (turn.reply, turn.status, turn.reason) == ("Hello", TurnStatus.INTERRUPTED, "upstream_disconnected")


async def test_readers_can_distinguish_a_rejection_from_an_error_after_acceptance() -> None:
    async with application(
        ScriptedReply(refusal=LLMUnreachable()), ScriptedReply(deltas=(), failure=LLMDisconnected())
    ) as app:
        rejected, interrupted = await app.complete(message()), await app.complete(message())

        assert ("upstream_unreachable", False) == (rejected.code, rejected.accepted)
        assert ("upstream_disconnected", True) == (interrupted.code, interrupted.accepted)


async def test_a_bug_fails_the_turn_without_disclosing_details() -> None:
    class Buggy(ScriptedLLM):
        @asynccontextmanager
        async def reply(
            self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
        ) -> AsyncIterator[Reply]:
            async with super().reply(messages, max_tokens, options) as reply:
                if messages:
                    raise KeyError("canary")
                yield reply

    async with application(llm=Buggy()) as app:
        ended = await app.complete(message())

        error = app.observer.ended[0].error
        assert isinstance(error, InternalError)
        assert isinstance(app.observer.causes[0], KeyError)
        assert (ended.end.failure and ended.end.failure.detail) == "Internal error."
        assert (await app.last_turn()).reason == "internal_error"


@pytest.mark.parametrize(
    ("script", "status"), [(SILENT, TurnStatus.FAILED), (HANGS, TurnStatus.INTERRUPTED)], ids=["silent", "some text"]
)
async def test_a_turn_ends_at_its_deadline(script: ScriptedReply, status: TurnStatus) -> None:
    async with application(script, deadline=0.05) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert Failure.of(TurnDeadline("The turn took longer than 0.05 s (TURN_TIMEOUT).")) == ended.end.failure
        assert (status, "turn_deadline") == (turn.status, turn.reason)
        assert app.llm.open == 0


async def test_a_reply_that_exceeds_the_size_limit_ends_with_the_last_delta_that_fits() -> None:
    async with application(ScriptedReply(deltas=("ééé", "ab", "ccc", "more"), hangs=True), max_reply_bytes=10) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert OutputLimit.code == ended.code
        assert ended.deltas == ["ééé", "ab"]
        assert (turn.reply, turn.status, turn.reason) == ("éééab", TurnStatus.INTERRUPTED, "output_limit")
        assert app.llm.open == 0


async def test_a_reply_of_exactly_the_size_limit_is_complete() -> None:
    async with application(ScriptedReply(deltas=("ééé", "abcd")), max_reply_bytes=10) as app:
        assert End("stop", None, USAGE) == (await app.complete(message())).end


async def test_the_size_limit_applies_between_deltas_of_one_batch() -> None:
    class AllAtOnce(Reply):
        finish_reason = ""
        usage = None

        async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
            yield ["ab", "cd", "ef", "gh"]

    class Burst(ScriptedLLM):
        @asynccontextmanager
        async def reply(
            self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
        ) -> AsyncIterator[Reply]:
            yield AllAtOnce()

    async with application(llm=Burst(), max_reply_bytes=5) as app:
        assert (await app.complete(message())).deltas == ["ab", "cd"]


async def test_a_context_that_the_model_rejects_as_too_long_is_retried_with_half_of_it() -> None:
    async with application(*[ScriptedReply()] * 6, ScriptedReply(refusal=LLMContextTooLong()), ScriptedReply(),
                      context_tokens=200) as app:  # fmt: skip
        for number in range(6):
            await app.complete(message(f"Question {number}"))

        ended = await app.complete(message("Now"))

        whole, half = app.llm.asked[-2:]
        assert End("stop", None, USAGE) == ended.end
        assert whole[0] == half[0]
        assert whole[-1] == half[-1]
        assert whole[len(whole) - len(half) + 1 :] == half[1:]
        assert 1 < len(half) - 1 < len(whole) - 1


async def test_a_turn_fails_if_instructions_and_message_alone_are_too_long() -> None:
    error = LLMContextTooLong()
    error.limit, error.prompt_tokens = 1_000, 2_000
    async with application(*[ScriptedReply()] * 6, ScriptedReply(refusal=error)) as app:
        for number in range(6):
            await app.complete(message(f"Question {number}"))

        ended = await app.complete(message())

        attempts = [[each.text for each in asked] for asked in app.llm.asked[6:]]
        assert ContextTooLong.code == ended.code
        assert attempts[-1] == ["Be brief.", "Hello"]
        assert sorted(map(len, attempts), reverse=True) == [*map(len, attempts)]
        assert len(set(map(len, attempts))) == len(attempts) > 2
        assert ((t := await app.last_turn()).status, t.reason) == (TurnStatus.FAILED, "context_too_long")


async def test_the_limit_of_the_reply_is_lowered_if_the_prompt_fits_without_it() -> None:
    error = LLMContextTooLong()
    error.limit, error.prompt_tokens = 1_024, 40
    async with application(ScriptedReply(refusal=error), ScriptedReply()) as app:
        ended = await app.complete(message())

        assert End("stop", None, USAGE) == ended.end
        assert app.llm.asked[0] == app.llm.asked[1]
        assert app.llm.max_tokens == [None, 984]


async def test_a_context_that_is_rejected_within_the_stream_is_retried_as_one_turn() -> None:
    rejected = ScriptedReply(deltas=(), failure=LLMContextTooLong())
    async with application(*[ScriptedReply()] * 3, rejected, ScriptedReply()) as app:
        for number in range(3):
            await app.complete(message(f"Question {number}"))

        ended = await app.complete(message())

        assert (End("stop", None, USAGE), True) == (ended.end, ended.accepted)
        assert len([event for event in app.observer.events if isinstance(event, TurnAccepted)]) == 4


async def test_a_context_that_is_rejected_after_some_text_ends_the_turn() -> None:
    error = LLMContextTooLong()
    async with application(ScriptedReply(deltas=("Hel",), failure=error)) as app:
        ended = await app.complete(message())

        assert (["Hel"], Failure.of(error)) == (ended.deltas, ended.end.failure)
        assert len(app.llm.asked) == 1


async def test_the_usage_that_a_model_reports_corrects_the_estimate_for_calls_without_it() -> None:
    text = "A message of some length, so that its count is believed. " * 5
    counted = ScriptedReply(deltas=(), usage=Usage(250, 4))
    async with application(*[counted] * 4, ScriptedReply(deltas=(text,), usage=None), max_message_chars=1_000) as app:
        for _ in range(5):
            await app.complete(message(text))

        turn = await app.last_turn()
        assert turn.usage is not None
        assert turn.usage.estimated
        assert turn.usage.prompt_tokens == pytest.approx(250, rel=0.1)
        assert turn.usage.completion_tokens > 1.5 * estimate_tokens(text)


async def test_the_context_omits_failed_turns() -> None:
    scripts = [
        ScriptedReply(deltas=("One!",)),
        ScriptedReply(refusal=LLMUnreachable()),
        ScriptedReply(deltas=("Three!",)),
    ]
    async with application(*scripts) as app:
        for text in ("One", "Two", "Three"):
            await app.complete(message(text))
        await app.complete(message("Four"))

    assert [each.text for each in app.llm.asked[-1]] == ["Be brief.", "One", "One!", "Three", "Three!", "Four"]


async def test_a_history_that_cannot_be_read_fails_the_turn_before_the_model_is_called() -> None:
    async with application(history=FailingHistory({"latest": [HistoryUnavailable()]})) as app:
        ended = await app.complete(message())

        assert ended.code == "history_unavailable"
        assert (await app.last_turn()).reason == "history_unavailable"
        assert app.llm.asked == []


@pytest.mark.parametrize("error", [HistoryUnavailable(), RuntimeError("a bug")])
async def test_storing_the_end_is_retried(error: Exception) -> None:
    async with application(history=FailingHistory({"finish": [error, error]}), store_delays=NO_DELAYS) as app:
        ended = await app.complete(message())

        assert End("stop", None, USAGE) == ended.end
        assert (await app.last_turn()).status == TurnStatus.COMPLETED
        assert [(Where.STORING_END, error)] * 2 == app.observer.failures


async def test_an_end_that_cannot_be_stored_is_reported_as_an_error() -> None:
    history = FailingHistory({"finish": [HistoryUnavailable()] * 3})
    async with application(history=history, store_delays=NO_DELAYS) as app:
        ended = await app.complete(message())

        assert HistoryWriteFailed.code == ended.code
        assert (await app.last_turn()).status == TurnStatus.IN_PROGRESS


async def test_storing_an_end_is_given_up_when_the_store_does_not_respond() -> None:
    async with application(history=HangingHistory(), store_timeout=0.02) as app:
        ended = await app.complete(message())

    assert HistoryWriteFailed.code == ended.code
    assert [Where.STORING_END] == [where for where, _ in app.observer.failures]


async def test_a_turn_that_is_deleted_while_it_runs_ends_as_cancelled_and_is_not_stored() -> None:
    async with application(HANGS) as app:
        handle = await app.send(message())
        await app.until_replied(handle)
        await app.history.clear(ANN, None)
        await app.live_turns.discard(ANN, None)

        ended = await read(handle)

        assert Cancelled.code == ended.code
        with pytest.raises(TurnNotFound):
            await app.stored(handle.turn.id)
        assert app.llm.open == 0


async def test_a_turn_that_is_deleted_just_before_its_end_is_not_stored_again() -> None:
    class Deleting(HistoryInMemory):
        async def finish(self, end: TurnEnd) -> Turn | None:
            await self.clear(end.turn.user_id, None)
            return await super().finish(end)

    async with application(history=Deleting()) as app:
        ended = await app.complete(message())

        assert Cancelled.code == ended.code
        assert list((await app.history.page(ANN, None, 50, None)).items) == []


async def test_a_stop_before_any_text_interrupts_the_turn() -> None:
    async with application(SILENT) as app:
        handle = await app.send(message())
        await handle.next(10)

        await app.live_turns.stop(handle.turn.id, None)

        turn = await app.last_turn()
        assert (turn.reply, turn.status, turn.reason) == ("", TurnStatus.INTERRUPTED, "cancelled")


async def test_a_stop_right_after_the_begin_interrupts_the_turn() -> None:
    async with application(SILENT) as app:
        handle = await app.send(message())

        await app.live_turns.stop(handle.turn.id, None)

        assert ((t := await app.last_turn()).status, t.reason) == (TurnStatus.INTERRUPTED, "cancelled")


async def test_the_first_request_to_end_a_turn_determines_its_reason() -> None:
    async with application(HANGS) as app:
        handle = await app.send(message())
        await app.until_replied(handle)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.live_turns.stop, handle.turn.id, None)
            await anyio.lowlevel.checkpoint()
            await handle.__aexit__(None, None, None)
            tasks.start_soon(app.runner.drain, 0)

        assert "cancelled" == (await app.last_turn()).reason


async def test_the_end_of_a_cancelled_turn_is_stored() -> None:
    class Slow(HistoryInMemory):
        async def finish(self, end: TurnEnd) -> Turn | None:
            await anyio.sleep(0.02)
            return await super().finish(end)

    async with application(HANGS, history=Slow()) as app:
        handle = await app.send(message())
        await app.until_replied(handle)
        async with handle:
            pass
        await app.until_idle()

        turn = await app.last_turn()
        assert (turn.reply, turn.reason) == ("Hel", "client_disconnected")


async def test_the_end_of_a_turn_is_observed_once_with_its_figures() -> None:
    async with application() as app:
        await app.complete(message())

        [ended] = app.observer.ended
        assert (TurnStatus.COMPLETED, None) == (ended.turn.status, ended.error)
        assert (4, USAGE) == (ended.deltas, ended.turn.usage)
        assert ended.first_delta_seconds is not None
        assert 0 <= ended.first_delta_seconds <= ended.seconds


async def test_a_turn_without_text_has_no_time_to_the_first_delta() -> None:
    error: LLMError = LLMUnreachable()
    async with application(ScriptedReply(refusal=error)) as app:
        await app.complete(message())

        [ended] = app.observer.ended
        assert (error, None, 0, None) == (ended.error, ended.first_delta_seconds, ended.deltas, ended.turn.usage)


async def test_storing_the_end_survives_cancellation_of_the_whole_application() -> None:
    storing = anyio.Event()

    class Slow(HistoryInMemory):
        async def finish(self, end: TurnEnd) -> Turn | None:
            storing.set()
            await anyio.sleep(0.02)
            return await super().finish(end)

    history = Slow()
    with anyio.CancelScope() as scope:
        async with application(history=history) as app:
            await app.send(message())
            await storing.wait()
            scope.cancel()
            await anyio.sleep_forever()

    assert [turn.status for turn in (await history.page(ANN, None, 50, None)).items] == [TurnStatus.COMPLETED]


async def test_a_context_error_after_some_text_is_not_retried() -> None:
    async with application(ScriptedReply(deltas=("Hel", "lo"), failure=LLMContextTooLong()), ScriptedReply()) as app:
        ended = await app.complete(message())

        assert ["Hel", "lo"] == ended.deltas
        assert LLMContextTooLong.code == ended.code
        assert len(app.llm.asked) == 1


async def test_an_observed_error_has_no_traceback_cause_or_context() -> None:
    async with application(ScriptedReply(refusal=LLMContextTooLong())) as app:
        await app.complete(message())

        error = app.observer.ended[0].error
        assert error is not None
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


async def test_the_events_of_a_turn_are_observed_in_order() -> None:
    async with application() as app:
        await app.complete(message())

        kinds = [type(event) for event in app.observer.events]
        assert [TurnBegun, MemoriesRecalled, TurnAccepted, FirstDelta, TurnEnded] == kinds


# Stored ends


class EndedElsewhere(HistoryInMemory):
    """Simulates another worker that ends each turn just before its own worker does."""

    async def finish(self, end: TurnEnd) -> Turn | None:
        await super().finish(TurnEnd(replace(end.turn, status=TurnStatus.INTERRUPTED, reason="worker_lost")))
        return await super().finish(end)


async def test_readers_receive_the_end_as_stored() -> None:
    async with application(history=EndedElsewhere()) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert ("worker_lost", "worker_lost") == (ended.code, turn.reason)
        assert ended.end.failure == Failure.of(WorkerLost())
        assert [turn] == [event.turn for event in app.observer.ended]
        assert [TurnFenced(turn)] == [event for event in app.observer.events if isinstance(event, TurnFenced)]


async def test_a_stored_reason_of_a_newer_version_is_reported_as_an_internal_error() -> None:
    class Newer(HistoryInMemory):
        async def finish(self, end: TurnEnd) -> Turn | None:
            return replace(end.turn, status=TurnStatus.INTERRUPTED, reason="invented_later")

    async with application(history=Newer()) as app:
        assert "internal_error" == (await app.complete(message())).code


async def test_an_end_that_was_stored_despite_a_reported_error_is_a_success() -> None:
    class Ambiguous(HistoryInMemory):
        failed = False

        async def finish(self, end: TurnEnd) -> Turn | None:
            stored = await super().finish(end)
            if not self.failed:
                self.failed = True
                raise HistoryUnavailable
            return stored

    async with application(history=Ambiguous(), store_delays=NO_DELAYS) as app:
        assert End("stop", None, USAGE) == (await app.complete(message())).end


async def test_the_conversation_is_free_before_readers_see_the_end() -> None:
    async with application(ScriptedReply()) as app:
        for _ in range(20):
            async with await app.send(message(when_busy=WhenBusy.REJECT)) as handle:
                await handle.read_to_end()


# Usage


async def test_usage_is_stored_as_reported() -> None:
    async with application() as app:
        await app.complete(message())

        assert USAGE == (await app.last_turn()).usage


@pytest.mark.parametrize(
    "script",
    [ScriptedReply(usage=None), ScriptedReply(failure=LLMDisconnected()), HANGS],
    ids=["not reported", "cut", "stopped"],
)
async def test_usage_is_estimated_if_the_provider_reported_none(script: ScriptedReply) -> None:
    async with application(script) as app:
        handle = await app.send(message())
        await app.until_replied(handle)
        async with handle:
            if script.hangs:
                await app.live_turns.stop(handle.turn.id, None)
            await handle.read_to_end()

        usage = (await app.last_turn()).usage
        assert usage is not None
        assert usage.estimated
        assert usage.prompt_tokens > 0
        assert usage.completion_tokens > 0


async def test_a_turn_that_the_model_never_accepted_has_no_usage() -> None:
    async with application(ScriptedReply(refusal=LLMUnreachable())) as app:
        await app.complete(message())

        assert (await app.last_turn()).usage is None


# Event logs that fail


class FailingLog(EventLog):
    """Raises from one method of another log."""

    def __init__(self, log: EventLog, method: str) -> None:
        self._log = log
        self._method = method

    def _before(self, method: str) -> None:
        if method == self._method:
            raise LiveTurnsUnavailable

    def accept(self) -> None:
        self._before("accept")
        self._log.accept()

    def append(self, deltas: Sequence[str]) -> None:
        self._before("append")
        self._log.append(deltas)

    async def close(self, end: End) -> None:
        self._before("close")
        await self._log.close(end)

    def abandon(self) -> None:
        self._log.abandon()


class FailingLogs(LiveTurnsInProcess):
    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        return FailingLog(await super().open(turn, stop, stop_when_left=stop_when_left), self._method)


@pytest.mark.parametrize("method", ["accept", "append", "close"])
async def test_a_failing_event_log_ends_its_readers_but_not_the_turn(method: str) -> None:
    async with application(live_turns=FailingLogs(method)) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert Failure.of(LiveTurnsUnavailable()) == ended.end.failure
        assert ("Hello, world!", TurnStatus.COMPLETED) == (turn.reply, turn.status)
        assert [Where.WRITING_EVENTS] == [where for where, _ in app.observer.failures]


@pytest.mark.parametrize("keep_running", [True, False])
async def test_an_event_log_that_cannot_be_read_ends_its_reader_but_not_the_turn(keep_running: bool) -> None:
    class FailingReads(LiveTurnsInProcess):
        async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
            return FailingReader(await super().join(turn_id, owner, after))

    async with application(ScriptedReply(pause=0.001), live_turns=FailingReads()) as app:
        handle = await app.send(message(keep_running=keep_running))
        ended = await read(handle)
        await app.until_idle()

        assert "live_turns_unavailable" == ended.code
        assert TurnStatus.COMPLETED == (await app.last_turn()).status


class FailingReader(Reader):
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def next(self, wait: float) -> Batch | None:
        raise LiveTurnsUnavailable

    async def __aexit__(self, *exit: Any) -> None:
        await self._reader.__aexit__(*exit)


# Leases that cannot be released


class StuckLease(Lease):
    """Raises `error` from its release, or hangs if there is none."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def release(self, *, turn_ended: bool = False) -> None:
        if self._error is None:
            await anyio.sleep_forever()
        else:
            raise self._error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), None], ids=["fails", "hangs"])
async def test_a_lease_that_cannot_be_released_keeps_no_reader_waiting_and_no_drain(error: Exception | None) -> None:
    async with application() as app:
        running = RunningTurn(
            await began(app), StuckLease(error), app.observer, max_reply_bytes=1000, close_timeout=0.01
        )
        running.attach(await app.live_turns.open(running.turn, running.stop, stop_when_left=False))
        reader = await app.live_turns.join(running.turn.id, ANN)
        app.runner.start(running)

        ended = await read(TurnHandle(running.turn, reader))
        with anyio.fail_after(5):
            await app.runner.drain(0)

        assert End("stop", None, USAGE) == ended.end
        assert {Where.RELEASING_LEASE} == {where for where, _ in app.observer.failures}


async def began(app: Harness) -> Turn:
    turn = Turn(TurnId(str(uuid4())), ANN, DEFAULT_CONVERSATION, NOW, "Hello")
    await app.history.begin(TurnBegin(turn, app.runner.lease))
    return turn


async def test_a_request_that_is_repeated_after_it_was_accepted_is_observed_as_accepted_once() -> None:
    async with application(ScriptedReply(deltas=(), failure=LLMContextTooLong()), ScriptedReply()) as app:
        await app.complete(message())

        assert 2 == len(app.llm.asked)
        assert 1 == len([event for event in app.observer.events if isinstance(event, TurnAccepted)])
