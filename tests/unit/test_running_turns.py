"""The turns that run: their text saved now and then, their end at shutdown."""

from collections.abc import Mapping
from datetime import datetime

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable
from application.ports.live_turns import End
from application.ports.llm import LLMUnreachable
from application.turns import generate_reply
from application.turns import running as running_turns
from domain.conversation import ConversationId, Turn, TurnId, TurnStatus
from domain.errors import Cancelled
from tests.harness.fakes import ScriptedReply
from tests.harness.script import ANN, FailingHistory, message, read, staged, until

HANGS = ScriptedReply(texts=("Hel", "lo"), hangs=True)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text so far is saved every few milliseconds."""
    monkeypatch.setattr(running_turns, "PROGRESS_INTERVAL", 0.005)
    monkeypatch.setattr(generate_reply, "FINISH_PAUSES", (0.0, 0.0, 0.0))


class Recording(HistoryInMemory):
    """Remembers every saving."""

    def __init__(self) -> None:
        super().__init__()
        self.savings: list[dict[TurnId, str]] = []

    async def save_progress(self, replies: Mapping[TurnId, str]) -> None:
        self.savings.append(dict(replies))
        await super().save_progress(replies)


@pytest.mark.usefixtures("often")
async def test_the_text_so_far_is_stored_while_the_turn_runs() -> None:
    history = Recording()
    async with staged(HANGS, history=history) as stage:
        begun = await stage.send(message())
        await until(lambda: {begun.running.turn.id: "Hello"} in history.savings)

        stored = await history.get(begun.running.turn.id)
        assert (stored.reply, stored.status) == ("Hello", TurnStatus.IN_PROGRESS)


@pytest.mark.usefixtures("often")
async def test_all_running_turns_are_saved_together() -> None:
    history = Recording()
    async with staged(HANGS, history=history) as stage:
        begun = [await stage.send(message(conversation=ConversationId(name))) for name in ("a", "b", "c")]
        await until(lambda: all(len(one.running.texts) == 2 for one in begun) and bool(history.savings))
        await until(lambda: {key for saving in history.savings for key in saving} >= {b.running.turn.id for b in begun})

        assert len(history.savings) < 6


@pytest.mark.usefixtures("often")
async def test_what_has_not_grown_is_not_saved_again() -> None:
    history = Recording()
    async with staged(HANGS, history=history) as stage:
        begun = await stage.send(message())
        await until(lambda: {begun.running.turn.id: "Hello"} in history.savings)
        saved = len(history.savings)
        await anyio.sleep(0.05)

        assert saved == len(history.savings)


@pytest.mark.usefixtures("often")
async def test_a_saving_that_fails_is_told_and_made_up_for() -> None:
    error = HistoryUnavailable()
    history = FailingHistory({"save_progress": [error, error]})
    async with staged(HANGS, history=history) as stage:
        begun = await stage.send(message())
        await until(lambda: len(stage.observer.failures) == 2)
        await until(lambda: history.calls.count("save_progress") > 2)
        await anyio.sleep(0.01)

        assert [("saving the text so far", error)] * 2 == stage.observer.failures
        assert (await history.get(begun.running.turn.id)).reply == "Hello"


@pytest.mark.usefixtures("often")
async def test_an_end_that_could_not_be_stored_is_stored_when_the_store_is_back() -> None:
    history = FailingHistory({"finish": [HistoryUnavailable()] * 5})
    async with staged(history=history) as stage:
        begun = await stage.send(message())
        await read(begun.reader)
        await until(lambda: history.calls.count("finish") >= 6)
        await anyio.sleep(0.01)

        stored = await history.get(begun.running.turn.id)
        expected = ("Hello, world!", TurnStatus.INTERRUPTED, "history_write_failed")
        assert expected == (stored.reply, stored.status, stored.reason)
        assert history.calls.count("finish") == 6


@pytest.mark.usefixtures("often")
async def test_a_turn_that_ended_is_not_saved_over() -> None:
    history = Recording()
    async with staged(ScriptedReply(texts=("a",) * 50, pause=0.001), history=history) as stage:
        await stage.ended(message())
        await anyio.sleep(0.02)

        turn: Turn = (await history.page(ANN, None, 1, None)).items[0]
        assert (turn.reply, turn.status) == ("a" * 50, TurnStatus.COMPLETED)


async def test_turns_that_end_within_the_grace_end_as_they_would() -> None:
    async with staged(ScriptedReply(pause=0.01)) as stage:
        begun = await stage.send(message())
        await stage.turns.drain(grace=20)

        assert (await stage.history.get(begun.running.turn.id)).status == TurnStatus.COMPLETED


async def test_turns_that_outlast_the_grace_are_interrupted_with_what_they_have() -> None:
    async with staged(HANGS) as stage:
        begun = await stage.send(message())
        await until(lambda: len(begun.running.texts) == 2)
        with anyio.fail_after(10):
            await stage.turns.drain(grace=0.02)

        stored = await stage.history.get(begun.running.turn.id)
        expected = ("Hello", TurnStatus.INTERRUPTED, "server_shutting_down")
        assert expected == (stored.reply, stored.status, stored.reason)


async def test_a_drain_without_turns_returns_at_once() -> None:
    async with staged() as stage:
        with anyio.fail_after(10):
            await stage.turns.drain(grace=3600)


async def test_a_second_drain_without_grace_cuts_the_first_one_short() -> None:
    async with staged(HANGS) as stage, anyio.create_task_group() as tasks:
        await stage.send(message())
        tasks.start_soon(stage.turns.drain, 3600)
        await anyio.sleep(0.01)
        with anyio.fail_after(10):
            await stage.turns.drain(grace=0)

        assert len(stage.turns) == 0


async def test_a_reader_of_a_turn_that_is_drained_is_told_why_it_ended() -> None:
    async with staged(HANGS) as stage:
        begun = await stage.send(message())
        await until(lambda: len(begun.running.texts) == 2)
        await stage.turns.drain(grace=0)

        error = (await read(begun.reader)).end.error
        assert (error and error.code) == "server_shutting_down"


async def test_turns_that_still_run_when_the_service_closes_are_ended_and_stored() -> None:
    history = HistoryInMemory()
    with anyio.fail_after(10):
        async with staged(HANGS, history=history) as stage:
            begun = await stage.send(message())
            await until(lambda: len(begun.running.texts) == 2)

    stored = await history.get(begun.running.turn.id)
    assert (stored.status, stored.reason) == (TurnStatus.INTERRUPTED, "server_shutting_down")


async def test_how_the_model_fared_last_is_known_until_it_answers_again() -> None:
    error = LLMUnreachable()
    async with staged(ScriptedReply(refusal=error), ScriptedReply()) as stage:
        known = [stage.turns.llm_failure]
        for _ in range(2):
            await stage.ended(message())
            known.append(stage.turns.llm_failure)

    assert known == [None, error, None]


async def test_a_stop_says_nothing_about_the_model() -> None:
    async with staged(ScriptedReply(refusal=LLMUnreachable()), HANGS) as stage:
        await stage.ended(message())
        begun = await stage.send(message())
        begun.running.stop(Cancelled())
        await begun.running.ended.wait()

        assert stage.turns.llm_failure is not None


class Begin:
    """Lets a begin wait."""

    def __init__(self) -> None:
        self.reached, self.go_on = anyio.Event(), anyio.Event()


class SlowHistory(HistoryInMemory):
    def __init__(self, slow: Begin) -> None:
        super().__init__()
        self._slow = slow

    async def begin(self, turn: Turn) -> None:
        self._slow.reached.set()
        await self._slow.go_on.wait()
        await super().begin(turn)


async def test_a_turn_that_begins_while_the_service_drains_is_ended_at_once() -> None:
    slow = Begin()
    async with staged(HANGS, history=SlowHistory(slow)) as stage, anyio.create_task_group() as tasks:
        tasks.start_soon(stage.send, message())
        await slow.reached.wait()
        await stage.turns.drain(0)
        slow.go_on.set()
        await until(lambda: bool(stage.observer.turns))

        assert [(turn.status, turn.reason) for turn, _, _ in stage.observer.turns] == [
            (TurnStatus.INTERRUPTED, "server_shutting_down")
        ]


class Unobserved(Exception):
    """What an observer must not raise, and raises."""


async def test_a_turn_that_goes_wrong_beyond_all_measure_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with staged(ScriptedReply()) as stage:
        told = stage.observer.ended
        monkeypatch.setattr(stage.observer, "ended", lambda *_: (_ for _ in ()).throw(Unobserved))
        await stage.ended(message())
        monkeypatch.setattr(stage.observer, "ended", told)

        assert End("stop", None) == (await stage.ended(message())).end


@pytest.mark.usefixtures("often")
async def test_an_end_that_is_never_stored_does_not_keep_the_text_of_others_from_being_saved() -> None:
    history = FailingHistory({"finish": [HistoryUnavailable()] * 100_000})
    async with staged(ScriptedReply(), HANGS, history=history) as stage:
        await stage.ended(message())
        begun = await stage.send(message(conversation=ConversationId("other")))
        await until(lambda: begun.running.saved == 2)
        history.plans.clear()


@pytest.mark.usefixtures("often")
async def test_an_end_that_fails_again_does_not_keep_another_from_being_stored() -> None:
    class Poisoned(HistoryInMemory):
        bad: TurnId | None = None
        down = True

        async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
            self.bad = self.bad or turn.id
            if self.down or turn.id == self.bad:
                raise HistoryUnavailable
            return await super().finish(turn, remember_at=remember_at)

    history = Poisoned()
    async with staged(ScriptedReply(), history=history) as stage:
        await stage.ended(message())
        other = await stage.send(message(conversation=ConversationId("other")))
        await read(other.reader)
        history.down = False
        with anyio.fail_after(10):
            while (await history.get(other.running.turn.id)).status is TurnStatus.IN_PROGRESS:
                await anyio.sleep(0.001)
