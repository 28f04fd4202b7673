"""The turn runner: saving progress, storing ends, draining, and leases."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable, ReplyAddition, TurnBegin, TurnEnd
from application.ports.live_turns import End
from application.ports.llm import LLMContentRefused, LLMContextTooLong, LLMError, LLMUnreachable
from application.ports.turn_observer import AbandonedTurnsEnded, Event, TurnEnded, TurnFenced, Where
from application.turns.handle import TurnHandle
from domain.conversation import ConversationId, Turn, TurnId, TurnStatus
from domain.errors import WorkerLost
from tests.harness.fakes import USAGE, ScriptedReply
from tests.harness.script import (
    ANN,
    NO_DELAYS,
    NOW,
    FailingHistory,
    HangingHistory,
    application,
    message,
    read,
    until,
)

SAVES_OFTEN: Any = {"save_interval": 0.005, "store_delays": NO_DELAYS}
"""Options that save progress every few milliseconds."""

HANGS = ScriptedReply(deltas=("Hel", "lo"), hangs=True)


class Recording(HistoryInMemory):
    """Records the additions of every call of `save_progress`, and, if told, fails after it has taken effect."""

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[dict[TurnId, ReplyAddition]] = []
        self.fails_late = False

    @property
    def saved(self) -> list[ReplyAddition]:
        return [addition for save in self.saves for addition in save.values()]

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        self.saves.append(dict(additions))
        lost = await super().save_progress(additions, lease)
        if self.fails_late:
            raise HistoryUnavailable
        return lost


async def test_the_text_is_saved_while_the_turn_runs() -> None:
    history = Recording()
    async with application(HANGS, history=history, **SAVES_OFTEN) as app:
        handle = await app.send(message())
        await until(lambda: "Hello" == "".join(addition.text for addition in history.saved))

        stored = await history.get(handle.turn.id, None)
        assert (stored.reply, stored.status) == ("Hello", TurnStatus.IN_PROGRESS)


async def test_all_running_turns_are_saved_in_one_call() -> None:
    history = Recording()
    async with application(HANGS, history=history, **SAVES_OFTEN) as app:
        handles = [await app.send(message(conversation=ConversationId(name))) for name in ("a", "b", "c")]
        for handle in handles:
            await app.until_replied(handle, 2)
        await until(lambda: {key for save in history.saves for key in save} >= {h.turn.id for h in handles})

        assert len(history.saves) < 6


async def test_only_new_text_is_saved() -> None:
    history = Recording()
    reply = ScriptedReply(deltas=("Grüße", ", ") * 5, pause=0.02)
    async with application(reply, history=history, **SAVES_OFTEN) as app:
        await app.complete(message())

    text, places = "", []
    for addition in history.saved:
        places.append(len(text))
        text += addition.text
    assert places == [addition.start for addition in history.saved]
    assert len(places) > 2
    assert ("Grüße, " * 5).startswith(text)


async def test_text_whose_saving_failed_late_is_saved_again_with_the_text_since() -> None:
    history = Recording()
    history.fails_late = True
    reply = ScriptedReply(deltas=("a", "b", "c", "d"), pause=0.02, hangs=True)
    async with application(reply, history=history, **SAVES_OFTEN) as app:
        handle = await app.send(message())
        await app.until_replied(handle, 2)
        await until(lambda: any(addition.text for addition in history.saved))
        history.fails_late = False
        await app.until_replied(handle, 4)
        await until(lambda: history.saved[-1].text.endswith("d"))

        assert (await history.get(handle.turn.id, None)).reply == "abcd"


async def test_unchanged_text_is_not_saved_again() -> None:
    history = Recording()
    async with application(HANGS, history=history, **SAVES_OFTEN) as app:
        await app.send(message())
        await until(lambda: "Hello" == "".join(addition.text for addition in history.saved))
        saved = len(history.saves)
        await anyio.sleep(0.05)

        assert saved == len(history.saves)


async def test_a_failed_save_is_reported_and_repeated() -> None:
    error = HistoryUnavailable()
    history = FailingHistory({"save_progress": [error, error]})
    async with application(HANGS, history=history, **SAVES_OFTEN) as app:
        handle = await app.send(message())
        await until(lambda: len(app.observer.failures) == 2)
        await until(lambda: history.calls.count("save_progress") > 2)
        await anyio.sleep(0.01)

        assert [(Where.SAVING_PROGRESS, error)] * 2 == app.observer.failures
        assert (await history.get(handle.turn.id, None)).reply == "Hello"


async def test_an_end_that_could_not_be_stored_is_stored_when_the_store_recovers() -> None:
    history = FailingHistory({"finish": [HistoryUnavailable()] * 5})
    async with application(history=history, **SAVES_OFTEN) as app:
        handle = await app.send(message())
        await read(handle)
        await until(lambda: history.calls.count("finish") >= 6)
        await anyio.sleep(0.01)

        stored = await history.get(handle.turn.id, None)
        expected = ("Hello, world!", TurnStatus.INTERRUPTED, "history_write_failed")
        assert expected == (stored.reply, stored.status, stored.reason)
        assert history.calls.count("finish") == 6


async def test_saving_progress_does_not_overwrite_an_ended_turn() -> None:
    history = Recording()
    async with application(ScriptedReply(deltas=("a",) * 50, pause=0.001), history=history, **SAVES_OFTEN) as app:
        await app.complete(message())
        await anyio.sleep(0.02)

        turn: Turn = (await history.page(ANN, None, 1, None)).items[0]
        assert (turn.reply, turn.status) == ("a" * 50, TurnStatus.COMPLETED)


async def test_turns_that_end_within_the_grace_period_complete() -> None:
    async with application(ScriptedReply(pause=0.01)) as app:
        handle = await app.send(message())
        await app.runner.drain(grace=20)

        assert (await app.stored(handle.turn.id)).status == TurnStatus.COMPLETED


async def test_turns_that_exceed_the_grace_period_are_interrupted_with_their_text() -> None:
    async with application(HANGS) as app:
        handle = await app.send(message())
        await app.until_replied(handle, 2)
        with anyio.fail_after(10):
            await app.runner.drain(grace=0.02)

        stored = await app.stored(handle.turn.id)
        expected = ("Hello", TurnStatus.INTERRUPTED, "server_shutting_down")
        assert expected == (stored.reply, stored.status, stored.reason)


async def test_a_drain_bounds_the_time_to_store_the_ends_of_turns() -> None:
    async with application(HANGS, history=HangingHistory(), store_timeout=3600) as app:
        handle = await app.send(message())
        await app.until_replied(handle, 2)
        with anyio.fail_after(10):
            await app.runner.drain(grace=0, storing=0.02)

        assert "history_write_failed" == (await read(handle)).code


async def test_a_drain_bounds_the_time_of_a_turn_whose_end_is_being_stored() -> None:
    async with application(history=HangingHistory(), store_timeout=3600) as app:
        handle = await app.send(message())
        await app.until_replied(handle, 4)
        await anyio.sleep(0.02)
        with anyio.fail_after(10):
            await app.runner.drain(grace=0, storing=0.02)

        assert "history_write_failed" == (await read(handle)).code


async def test_a_drain_without_turns_returns_immediately() -> None:
    async with application() as app:
        with anyio.fail_after(10):
            await app.runner.drain(grace=3600)


async def test_a_second_drain_without_grace_period_ends_the_first() -> None:
    async with application(HANGS) as app, anyio.create_task_group() as tasks:
        await app.send(message())
        tasks.start_soon(app.runner.drain, 3600)
        await anyio.sleep(0.01)
        with anyio.fail_after(10):
            await app.runner.drain(grace=0)

        assert len(app.runner) == 0


async def test_readers_of_a_drained_turn_receive_the_reason() -> None:
    async with application(HANGS) as app:
        handle = await app.send(message())
        await app.until_replied(handle, 2)
        await app.runner.drain(grace=0)

        assert "server_shutting_down" == (await read(handle)).code


async def test_turns_that_still_run_when_the_runner_closes_are_ended_and_stored() -> None:
    history = HistoryInMemory()
    with anyio.fail_after(10):
        async with application(HANGS, history=history) as app:
            handle = await app.send(message())
            await app.until_replied(handle, 2)

    stored = await history.get(handle.turn.id, None)
    assert (stored.status, stored.reason) == (TurnStatus.INTERRUPTED, "server_shutting_down")


async def test_the_last_failure_of_the_model_is_known_until_it_replies_again() -> None:
    error = LLMUnreachable()
    async with application(ScriptedReply(refusal=error), ScriptedReply()) as app:
        known = [app.runner.llm_failure]
        for _ in range(2):
            await app.complete(message())
            known.append(app.runner.llm_failure)

    assert known == [None, error, None]


@pytest.mark.parametrize("refusal", [LLMContentRefused(), LLMContextTooLong()])
async def test_a_refused_message_does_not_count_as_a_failure_of_the_model(refusal: LLMError) -> None:
    async with application(ScriptedReply(refusal=refusal)) as app:
        await app.complete(message())

        assert app.runner.llm_failure is None


async def test_a_stop_does_not_clear_the_last_failure_of_the_model() -> None:
    async with application(ScriptedReply(refusal=LLMUnreachable()), HANGS) as app:
        await app.complete(message())
        handle = await app.send(message())
        await app.live_turns.stop(handle.turn.id, None)

        assert app.runner.llm_failure is not None


class SlowBegin(HistoryInMemory):
    """Blocks in `begin` until `proceed` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.proceed = anyio.Event(), anyio.Event()

    async def begin(self, begin: TurnBegin) -> Turn:
        self.reached.set()
        await self.proceed.wait()
        return await super().begin(begin)


async def test_a_turn_that_begins_while_the_service_drains_is_ended_immediately() -> None:
    history = SlowBegin()
    async with application(HANGS, history=history) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.send, message())
        await history.reached.wait()
        await app.runner.drain(0)
        history.proceed.set()
        await until(lambda: bool(app.observer.ended))

        assert [(event.turn.status, event.turn.reason) for event in app.observer.ended] == [
            (TurnStatus.INTERRUPTED, "server_shutting_down")
        ]


async def test_a_bug_in_ending_a_turn_does_not_affect_other_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async with application(ScriptedReply()) as app:
        with monkeypatch.context() as patch:
            patch.setattr(app.observer, "observe", _raise_at_the_end)
            await app.complete(message())

        assert End("stop", None, USAGE) == (await app.complete(message())).end


def _raise_at_the_end(event: Event) -> None:
    if isinstance(event, TurnEnded):
        raise ValueError("an observer must not raise")


async def test_an_end_that_is_never_stored_does_not_block_saving_other_turns() -> None:
    history = FailingHistory({"finish": [HistoryUnavailable()] * 100_000})
    async with application(ScriptedReply(), HANGS, history=history, **SAVES_OFTEN) as app:
        await app.complete(message())
        handle = await app.send(message(conversation=ConversationId("other")))
        await app.until_replied(handle, 2)
        await until_saved(history, handle, "Hello")
        history.plans.clear()


async def test_an_end_that_keeps_failing_does_not_block_storing_another() -> None:
    class FailingForOneTurn(HistoryInMemory):
        bad: TurnId | None = None
        down = True

        async def finish(self, end: TurnEnd) -> Turn | None:
            self.bad = self.bad or end.turn.id
            if self.down or end.turn.id == self.bad:
                raise HistoryUnavailable
            return await super().finish(end)

    history = FailingForOneTurn()
    async with application(ScriptedReply(), history=history, **SAVES_OFTEN) as app:
        await app.complete(message())
        other = await app.send(message(conversation=ConversationId("other")))
        await read(other)
        history.down = False
        with anyio.fail_after(10):
            while (await history.get(other.turn.id, None)).status is TurnStatus.IN_PROGRESS:
                await anyio.sleep(0.001)


# Leases


async def until_saved(history: HistoryInMemory, handle: TurnHandle, reply: str) -> None:
    with anyio.fail_after(10):
        while (await history.get(handle.turn.id, None)).reply != reply:
            await anyio.sleep(0.001)


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


async def test_abandoned_turns_are_ended_when_the_runner_opens() -> None:
    clock = Clock()
    history = HistoryInMemory(clock)
    turn = Turn(TurnId("00000000-0000-4000-8000-000000000001"), ANN, ConversationId("c"), NOW, "Hello")
    await history.begin(TurnBegin(turn, timedelta(seconds=15)))
    clock.now += timedelta(seconds=15)
    async with application(history=history) as app:
        assert turn.ended_by(WorkerLost()) == await app.stored(turn.id)
        assert [AbandonedTurnsEnded(1)] == app.observer.events


async def test_turns_abandoned_by_another_worker_are_ended_when_their_lease_expires() -> None:
    clock = Clock()
    history = HistoryInMemory(clock)
    turn = Turn(TurnId("00000000-0000-4000-8000-000000000001"), ANN, ConversationId("c"), NOW, "Hello")
    await history.begin(TurnBegin(turn, timedelta(hours=1)))
    async with application(history=history, save_interval=0.005, lease=timedelta(milliseconds=10)) as app:
        assert TurnStatus.IN_PROGRESS == (await app.stored(turn.id)).status
        clock.now += timedelta(hours=1)
        await until(lambda: AbandonedTurnsEnded(1) in app.observer.events)

        assert turn.ended_by(WorkerLost()) == await app.stored(turn.id)


async def test_a_silent_turn_keeps_its_lease() -> None:
    history = Recording()
    lease = timedelta(milliseconds=60)
    async with application(
        ScriptedReply(deltas=(), hangs=True), history=history, save_interval=0.005, lease=lease
    ) as app:
        handle = await app.send(message())
        await until(lambda: len(history.saves) >= 3)
        await anyio.sleep(0.2)

        assert TurnStatus.IN_PROGRESS == (await app.stored(handle.turn.id)).status
        assert {handle.turn.id: ReplyAddition(0, "")} == history.saves[-1]


class BusyHistory(HistoryInMemory):
    """Is `busy` from the moment in which leases are renewed until the sweep that may follow has ended."""

    busy = False

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        self.busy = True
        lost = await super().save_progress(additions, lease)
        self.busy = False
        return lost

    async def finish_abandoned(self) -> int:
        self.busy = True
        count = await super().finish_abandoned()
        self.busy = False
        return count


async def test_a_clock_that_jumps_forward_does_not_end_the_turns_of_this_worker() -> None:
    clock = Clock()
    history = BusyHistory(clock)
    async with application(HANGS, history=history, save_interval=0.005, lease=timedelta(milliseconds=50)) as app:
        handle = await app.send(message())
        await app.until_replied(handle, 2)
        for _ in range(10):
            await until(lambda: not history.busy)  # a jump within these two calls would end the turn
            clock.now += timedelta(hours=1)
            await anyio.sleep(0.02)

        assert TurnStatus.IN_PROGRESS == (await app.stored(handle.turn.id)).status


async def test_a_turn_is_ended_and_stored_even_if_the_application_is_cancelled() -> None:
    history = HistoryInMemory()
    with anyio.CancelScope() as scope:
        async with application(HANGS, history=history) as app:
            handle = await app.send(message(keep_running=True))
            await app.until_replied(handle, 2)
            scope.cancel()
            await anyio.sleep_forever()

    stored = await history.get(handle.turn.id, None)
    assert ("Hello", TurnStatus.INTERRUPTED, "server_shutting_down") == (stored.reply, stored.status, stored.reason)


async def test_turns_whose_end_is_still_to_be_stored_are_not_taken_for_abandoned() -> None:
    history = FailingHistory()
    often = {"save_interval": 0.005, "store_delays": (0.0,), "lease": timedelta(seconds=0.01)}
    async with application(history=history, **often) as app:  # type: ignore[arg-type]  # options of different types
        history.plans["finish"] = [HistoryUnavailable() for _ in range(12)]
        for name in ("a", "b"):
            assert "history_write_failed" == (await app.complete(message(conversation=ConversationId(name)))).code
        await until(lambda: history.calls.count("finish") == 14)

        turns = (await history.page(ANN, None, 10, None)).items
        assert [("Hello, world!", "history_write_failed")] * 2 == [(turn.reply, turn.reason) for turn in turns]


async def test_an_end_that_is_never_stored_does_not_keep_abandoned_turns_from_being_ended() -> None:
    class DamagedRow(FailingHistory):
        async def finish(self, end: TurnEnd) -> Turn | None:
            raise ValueError("a damaged row")

    history = DamagedRow()
    often: Any = {"save_interval": 0.005, "store_delays": NO_DELAYS, "lease": timedelta(seconds=0.01)}
    async with application(history=history, **often) as app:
        assert "history_write_failed" == (await app.complete(message())).code
        sweeps = history.calls.count("finish_abandoned")
        await until(lambda: history.calls.count("finish_abandoned") > sweeps + 1)


# A store that other workers share


SHARED: Any = {"is_store_shared": True, "save_interval": 0.005, "lease": timedelta(milliseconds=300)}
"""Sweeps are 60 ms apart; a turn is renewed after 100 ms."""


class Sweeps(FailingHistory):
    """Records when it is swept. A call of `save_progress` takes `save_time` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps: list[float] = []
        self.save_time = 0.0
        self.disturbed = 0.0
        """When the latest call that failed or was slow has ended."""

    async def finish_abandoned(self) -> int:
        self.sweeps.append(anyio.current_time())
        with self._recording():
            return await super().finish_abandoned()

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        seconds = self.save_time
        await anyio.sleep(seconds)
        with self._recording():
            saved = await super().save_progress(additions, lease)
        if seconds:
            self.disturbed = anyio.current_time()
        return saved

    async def until_swept_again(self) -> float:
        """Wait for a sweep after the disturbance, and return how many seconds were between them."""
        await until(lambda: 0 < self.disturbed < self.sweeps[-1])
        return min(time for time in self.sweeps if time > self.disturbed) - self.disturbed

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except HistoryUnavailable:
            self.disturbed = anyio.current_time()
            raise


async def test_a_worker_sweeps_a_fifth_of_the_lease_after_each_other() -> None:
    history = Sweeps()
    async with application(history=history, **SHARED):
        await until(lambda: len(history.sweeps) == 6)

    assert 0.3 <= history.sweeps[5] - history.sweeps[0]


async def test_a_worker_that_has_just_started_leaves_others_the_time_to_renew_their_leases() -> None:
    history = Sweeps()
    started = anyio.current_time()
    async with application(history=history, **SHARED):
        await until(lambda: bool(history.sweeps))

    assert 0.1 <= history.sweeps[0] - started


@pytest.mark.parametrize("operation", ["finish_abandoned", "save_progress"])
async def test_after_a_failed_call_no_sweep_precedes_a_whole_lease(operation: str) -> None:
    history = Sweeps()
    async with application(HANGS, history=history, **SHARED) as app:
        await app.send(message())
        await until(lambda: bool(history.sweeps))
        history.plans[operation] = [HistoryUnavailable()]

        assert 0.3 <= await history.until_swept_again() + 0.02


async def test_after_a_slow_call_no_sweep_precedes_a_whole_lease() -> None:
    history = Sweeps()
    async with application(HANGS, history=history, slow_call=0.05, **SHARED) as app:
        await app.send(message())
        await until(lambda: bool(history.sweeps))
        history.save_time = 0.1
        await until(lambda: history.calls.count("save_progress") > 1)
        saves = history.calls.count("save_progress")
        await until(lambda: history.calls.count("save_progress") > saves)
        history.save_time = 0

        assert 0.3 <= await history.until_swept_again() + 0.02


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_turn_that_another_worker_ended_or_that_was_deleted_stops(deleted: bool) -> None:
    history = HistoryInMemory()
    async with application(HANGS, history=history, save_interval=0.005, lease=timedelta(milliseconds=60)) as app:
        handle = await app.send(message(keep_running=True))
        await app.until_replied(handle, 2)
        if deleted:
            await history.clear(ANN, None)
        else:
            await history.finish(TurnEnd(handle.turn.ended_by(WorkerLost(), "Hel")))
        ended = await read(handle)
        await app.until_idle()

        assert ("cancelled" if deleted else "worker_lost") == ended.code
        assert app.llm.open == 0
        fenced = [event.turn.reason for event in app.observer.events if isinstance(event, TurnFenced)]
        assert ([] if deleted else ["worker_lost"]) == fenced


async def test_a_turn_that_ends_while_it_is_saved_is_not_taken_for_fenced() -> None:
    history = Sweeps()
    history.save_time = 0.05
    async with application(ScriptedReply(pause=0.01), history=history, save_interval=0.005) as app:
        assert End("stop", None, USAGE) == (await app.complete(message())).end
        await anyio.sleep(0.1)

        assert [] == [event for event in app.observer.events if isinstance(event, TurnFenced)]


async def test_abandoned_turns_are_ended_soon_after_a_start_at_which_the_store_failed() -> None:
    history = FailingHistory({"finish_abandoned": [HistoryUnavailable()]})
    async with application(history=history, save_interval=0.005, lease=timedelta(hours=1)) as app:
        assert [Where.ENDING_ABANDONED_TURNS] == [where for where, _ in app.observer.failures]
        await until(lambda: history.calls.count("finish_abandoned") == 2)
