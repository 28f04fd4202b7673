"""Long-term memory keeps up with what happened, whatever fails in between."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.memory.outbox_worker import (
    ENOUGH_ATTEMPTS,
    GIVE_UP_AFTER,
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    MemoryKeeper,
)
from application.ports.history import HistoryUnavailable
from application.ports.memory import LongTermMemory, MemoryRefused, MemoryUnavailable
from application.ports.memory_outbox import OutboxCounts, Remembering
from application.turns.running import RunningTurn
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from tests.harness.fakes import LearningMemory
from tests.harness.script import Observed, until

ADA, BOB = UserId("ada"), UserId("bob")
START = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = OutboxCounts(0, 0, 0)


@dataclass
class Scene:
    """A keeper with what it works on, and a clock that stands still until it is moved."""

    memory: LearningMemory = field(default_factory=LearningMemory)
    outbox: HistoryInMemory = field(default_factory=HistoryInMemory)
    observer: Observed = field(default_factory=Observed)
    time: datetime = START

    def __post_init__(self) -> None:
        self.keeper = MemoryKeeper(self.memory, self.outbox, self.observer, lambda: self.time)

    async def completed(self, text: str = "I like tea", user: UserId = ADA) -> Turn:
        """A turn that is in the outbox."""
        turn = Turn(TurnId(str(uuid4())), user, DEFAULT_CONVERSATION, self.time, text)
        await self.outbox.begin(turn)
        ended = turn.completed("I see.", "stop")
        await self.outbox.finish(ended, remember_at=self.time)
        return ended

    async def facts(self, user: UserId = ADA) -> list[str]:
        return [one.fact for one in (await self.memory.page(user, 200, None)).items]

    async def is_settled(self) -> bool:
        return await self.outbox.counts() == NOTHING

    def kept(self) -> dict[str, int]:
        """How much the keeper remembers of users, in each of its places."""
        return {name: len(value) for name, value in vars(self.keeper).items() if isinstance(value, dict | set)}

    def attempts(self) -> int:
        return self.memory.calls.count("remember")

    async def move(self, by: timedelta) -> None:
        self.time += by
        self.keeper.wake()


@asynccontextmanager
async def working(scene: Scene) -> AsyncIterator[Scene]:
    async with scene.keeper.open():
        yield scene


async def eventually_settled(scene: Scene) -> None:
    with anyio.fail_after(10):
        while not await scene.is_settled():
            await anyio.sleep(0.001)


async def attempted(scene: Scene, times: int) -> None:
    await until(lambda: scene.attempts() >= times)
    for _ in range(20):
        await anyio.sleep(0)


# Remembering


async def test_a_turn_in_the_outbox_is_remembered() -> None:
    async with working(Scene()) as scene:
        await scene.completed("I like tea")
        scene.keeper.wake()
        await eventually_settled(scene)

        assert ["I like tea"] == await scene.facts()


async def test_what_an_earlier_process_left_is_remembered_at_the_start() -> None:
    scene = Scene()
    for n in range(10):
        await scene.completed(f"fact {n}")
    async with working(scene):
        await eventually_settled(scene)

    assert {f"fact {n}" for n in range(10)} == set(await scene.facts())


async def test_what_fails_is_tried_again_after_pauses_that_grow() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryUnavailable(), MemoryUnavailable(), MemoryUnavailable()]
        await scene.completed()
        scene.keeper.wake()
        for attempt in range(1, 4):
            await attempted(scene, attempt)
            await scene.move(SHORTEST_PAUSE * 2 ** (attempt - 1) - timedelta(milliseconds=1))
            await attempted(scene, attempt)
            assert scene.attempts() == attempt
            await scene.move(timedelta(milliseconds=1))
        await eventually_settled(scene)

        assert (4, ["I like tea"]) == (scene.attempts(), await scene.facts())


async def test_a_memory_that_says_when_is_not_asked_sooner() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryUnavailable(retry_after=60)]
        await scene.completed()
        scene.keeper.wake()
        await attempted(scene, 1)
        await scene.move(timedelta(seconds=59))
        await attempted(scene, 1)
        assert scene.attempts() == 1
        await scene.move(timedelta(seconds=1))
        await eventually_settled(scene)


async def test_a_turn_that_is_refused_is_given_up_at_once() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryRefused()]
        await scene.completed()
        scene.keeper.wake()
        await attempted(scene, 1)

        assert OutboxCounts(0, 1, 0) == await scene.outbox.counts()
        assert ["remembering a turn, which is given up"] == [doing for doing, _ in scene.observer.failures]


async def test_a_turn_is_given_up_when_it_is_a_day_old() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryUnavailable()] * 100
        await scene.completed()
        scene.keeper.wake()
        tries = 0
        while (await scene.outbox.counts()).pending:
            tries += 1
            await attempted(scene, tries)
            await scene.move(LONGEST_PAUSE)

        assert OutboxCounts(0, 1, 0) == await scene.outbox.counts()
        assert scene.time - START > GIVE_UP_AFTER


async def test_one_users_trouble_is_not_anothers() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryUnavailable()]
        await scene.completed("of Ada", ADA)
        scene.keeper.wake()
        await attempted(scene, 1)
        await scene.completed("of Bob", BOB)
        scene.keeper.wake()
        await attempted(scene, 2)

        assert ["of Bob"] == await scene.facts(BOB)


async def test_an_outbox_that_fails_is_asked_again() -> None:
    class Failing(HistoryInMemory):
        failures = 2

        async def due(self, now: datetime, limit: int, *, besides: Collection[UserId] = ()) -> Sequence[Remembering]:
            if self.failures:
                self.failures -= 1
                raise HistoryUnavailable
            return await super().due(now, limit, besides=besides)

    scene = Scene(outbox=Failing())
    await scene.completed()
    async with working(scene):
        await until(lambda: len(scene.observer.failures) == 1)
        scene.keeper.wake()
        await until(lambda: len(scene.observer.failures) == 2)
        scene.keeper.wake()
        await eventually_settled(scene)

    assert ["looking into the memory outbox"] * 2 == [doing for doing, _ in scene.observer.failures]


async def test_what_is_due_at_the_stop_is_still_remembered() -> None:
    scene = Scene()
    async with working(scene):
        await scene.completed()

    assert ["I like tea"] == await scene.facts()
    assert await scene.is_settled()


async def test_a_memory_that_hangs_does_not_hold_up_the_stop_and_the_turn_stays_in_the_outbox() -> None:
    scene = Scene()
    scene.memory.gate = anyio.Event()
    await scene.completed()
    with anyio.fail_after(10):
        async with working(scene):
            await until(lambda: scene.attempts() == 1)

    assert OutboxCounts(1, 0, 0) == await scene.outbox.counts()


async def test_one_user_who_hangs_holds_up_nobody_else() -> None:
    async with working(Scene()) as scene:
        scene.memory.held[BOB] = anyio.Event()
        for n in range(30):
            await scene.completed(f"of Bob {n}", BOB)
        scene.keeper.wake()
        await until(lambda: scene.attempts() == 1)
        await scene.completed("of Ada", ADA)
        scene.keeper.wake()
        await until(lambda: scene.attempts() == 2)
        for _ in range(20):
            await anyio.sleep(0)

        assert ["of Ada"] == await scene.facts(ADA)
        assert await scene.keeper.forget(ADA)


async def test_an_error_that_nobody_expects_is_one_turns_trouble_and_reported() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [KeyError("x")]
        await scene.completed("of Bob", BOB)
        scene.keeper.wake()
        await attempted(scene, 1)
        await scene.completed("of Ada", ADA)
        scene.keeper.wake()
        await attempted(scene, 2)
        await scene.move(SHORTEST_PAUSE)
        await eventually_settled(scene)

        assert (["of Ada"], ["of Bob"]) == (await scene.facts(ADA), await scene.facts(BOB))


@pytest.mark.parametrize("seconds", [1e15, float("inf")])
async def test_however_long_a_memory_wants_to_be_left_alone_it_is_asked_again(seconds: float) -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryUnavailable(retry_after=seconds)]
        await scene.completed()
        scene.keeper.wake()
        await attempted(scene, 1)
        await scene.move(LONGEST_PAUSE)
        await eventually_settled(scene)


async def test_after_a_long_outage_a_turn_is_tried_several_times_however_old_it_is() -> None:
    scene = Scene()
    await scene.completed()
    scene.time += GIVE_UP_AFTER * 2
    scene.memory.plans["remember"] = [MemoryUnavailable()] * (ENOUGH_ATTEMPTS - 1)
    async with working(scene):
        for attempt in range(1, ENOUGH_ATTEMPTS):
            await attempted(scene, attempt)
            await scene.move(LONGEST_PAUSE)
        await eventually_settled(scene)

    assert ["I like tea"] == await scene.facts()


async def test_the_outbox_is_looked_into_again_and_again_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.INTERVAL", 0.01)
    async with working(Scene()) as scene:
        await anyio.sleep(0.03)
        await scene.completed()
        await eventually_settled(scene)

        assert ["I like tea"] == await scene.facts()


async def test_what_comes_while_all_is_quiet_is_remembered_at_the_stop() -> None:
    scene = Scene()
    async with working(scene):
        for _ in range(20):
            await anyio.sleep(0)
        await scene.completed()  # and nobody tells the keeper

    assert ["I like tea"] == await scene.facts()


# Forgetting


async def test_a_user_is_forgotten_at_once_where_that_is_possible() -> None:
    async with working(Scene()) as scene:
        await scene.memory.store(ADA, "likes tea", 0.5)

        assert await scene.keeper.forget(ADA)
        assert ([], True) == (await scene.facts(), await scene.is_settled())


async def test_what_is_not_certain_is_asked_again_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.INTERVAL", 0.01)
    async with working(Scene()) as scene:
        scene.memory.uncertain = 2

        assert not await scene.keeper.forget(ADA)
        assert await scene.keeper.is_forgetting(ADA)
        await eventually_settled(scene)
        assert 3 == scene.memory.calls.count("forget_all")


async def test_what_can_not_be_forgotten_at_once_is_tried_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.INTERVAL", 0.01)
    async with working(Scene()) as scene:
        await scene.memory.store(ADA, "likes tea", 0.5)
        scene.memory.plans["forget_all"] = [MemoryUnavailable(), MemoryUnavailable(), MemoryRefused()]

        assert not await scene.keeper.forget(ADA)
        assert OutboxCounts(0, 0, 1) == await scene.outbox.counts()
        await eventually_settled(scene)
        assert [] == await scene.facts()


async def test_a_store_that_keeps_failing_is_asked_less_and_less_often() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["forget_all"] = [MemoryUnavailable()] * 100
        assert not await scene.keeper.forget(ADA)
        for _ in range(50):
            scene.keeper.wake()
            await anyio.sleep(0)

        assert 1 == scene.memory.calls.count("forget_all")


async def test_who_asks_again_is_not_put_off() -> None:
    async with working(Scene()) as scene:
        scene.memory.plans["forget_all"] = [MemoryUnavailable()]

        assert not await scene.keeper.forget(ADA)
        assert await scene.keeper.forget(ADA)


async def test_forgetting_takes_as_long_as_it_takes_but_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.WAIT", 0.01)
    async with working(Scene()) as scene:
        await scene.memory.store(ADA, "likes tea", 0.5)
        scene.memory.held[ADA] = anyio.Event()

        assert not await scene.keeper.forget(ADA)
        await anyio.sleep(0.05)
        scene.memory.held[ADA].set()
        await eventually_settled(scene)
        assert 1 == scene.memory.calls.count("forget_all")
        assert [] == await scene.facts()


async def test_forgetting_outlives_the_process() -> None:
    scene = Scene()
    await scene.memory.store(ADA, "likes tea", 0.5)
    await scene.outbox.begin_forgetting(ADA)
    async with working(scene):
        await eventually_settled(scene)

    assert [] == await scene.facts()


async def test_however_many_can_not_be_forgotten_the_next_one_is() -> None:
    scene = Scene()
    scene.memory.plans["forget_all"] = [MemoryUnavailable()] * 150
    for n in range(150):
        await scene.outbox.begin_forgetting(UserId(f"a{n:03}"))
    async with working(scene):
        await until(lambda: scene.memory.calls.count("forget_all") == 150)

        assert await scene.keeper.forget(UserId("z"))


async def test_a_memory_that_does_not_learn_forgets_without_the_outbox() -> None:
    scene = Scene()
    scene.memory.extracts_from_turns = False
    scene.memory.plans["forget_all"] = [MemoryUnavailable()]
    with pytest.raises(MemoryUnavailable):
        await scene.keeper.forget(ADA)

    assert await scene.keeper.forget(ADA)
    assert await scene.is_settled()


async def test_nothing_is_written_for_a_user_who_is_still_being_forgotten() -> None:
    scene = Scene()
    await scene.outbox.begin_forgetting(ADA)
    with pytest.raises(MemoryUnavailable) as refusal:
        async with scene.keeper.writing(ADA):
            pytest.fail("it was let in")
    async with scene.keeper.writing(BOB):
        pass

    assert refusal.value.retry_after is not None


async def test_writing_waits_for_what_is_under_way_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.WAIT", 0.01)
    async with working(Scene()) as scene:
        scene.memory.held[ADA] = anyio.Event()
        await scene.completed()
        scene.keeper.wake()
        await until(lambda: scene.attempts() == 1)
        with pytest.raises(MemoryUnavailable):
            async with scene.keeper.writing(ADA):
                pytest.fail("it was let in")
        scene.memory.held[ADA].set()
        await eventually_settled(scene)
        async with scene.keeper.writing(ADA):
            pass


async def test_what_a_store_was_told_and_did_not_confirm_is_forgotten_when_it_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.LATE", 0.2)
    monkeypatch.setattr("application.memory.outbox_worker.INTERVAL", 0.01)
    async with working(Scene()) as scene:
        scene.memory.plans["remember"] = [MemoryUnavailable()]
        await scene.completed()
        scene.keeper.wake()
        await attempted(scene, 1)
        assert not await scene.keeper.forget(ADA)
        await scene.memory.store(ADA, "arrives late", 0.5)
        await eventually_settled(scene)

        assert [] == await scene.facts()


async def test_new_facts_survive_a_forgetting_that_is_done_already() -> None:
    """The keeper looks into the outbox, and what it sees there is done by the time that it gets to it."""

    class Slow(HistoryInMemory):
        async def forgetting(self, limit: int) -> Sequence[UserId]:
            seen = await super().forgetting(limit)
            if seen:
                looked.set()
                await go_on.wait()
            return seen

    looked, go_on = anyio.Event(), anyio.Event()
    scene = Scene(outbox=Slow())
    await scene.outbox.begin_forgetting(ADA)
    async with working(scene):
        await looked.wait()
        await scene.outbox.end_forgetting(ADA)
        await scene.memory.store(ADA, "likes coffee", 0.5)
        go_on.set()
        for _ in range(50):
            await anyio.sleep(0)

        assert ["likes coffee"] == await scene.facts()


async def test_a_turn_that_runs_while_its_user_is_forgotten_is_not_remembered() -> None:
    async with working(Scene()) as scene:
        turn = Turn(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, scene.time, "I like tea")
        running, others = RunningTurn(turn), RunningTurn(replace(turn, user_id=BOB))
        assert await scene.keeper.forget(ADA)
        after = RunningTurn(turn)

        assert scene.keeper.remember_at(running, running.turn.completed("I see.", "stop")) is None
        assert scene.keeper.remember_at(others, others.turn.completed("I see.", "stop")) == scene.time
        assert scene.keeper.remember_at(after, after.turn.completed("I see.", "stop")) == scene.time


@pytest.mark.parametrize("lead", range(20))
async def test_nothing_is_remembered_of_who_is_forgotten_meanwhile(lead: int) -> None:
    async with working(Scene()) as scene:
        for _ in range(50):
            scene.memory.held[ADA] = anyio.Event()
            await scene.completed("I like tea")
            scene.keeper.wake()
            for _ in range(lead):
                await anyio.sleep(0)
            scene.memory.held.pop(ADA).set()
            assert await scene.keeper.forget(ADA)
            assert [] == await scene.facts()
        await eventually_settled(scene)
        for _ in range(50):
            await anyio.sleep(0)

        assert [] == await scene.facts()


async def test_a_fact_that_is_being_stored_is_forgotten_too() -> None:
    async with working(Scene()) as scene:
        storing = anyio.Event()

        async def store(memory: LongTermMemory) -> None:
            async with scene.keeper.writing(ADA):
                storing.set()
                await anyio.sleep(0.01)
                await memory.store(ADA, "likes tea", 0.5)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store, scene.memory)
            await storing.wait()
            assert await scene.keeper.forget(ADA)

        assert [] == await scene.facts()


async def test_nothing_is_kept_of_users_where_nobody_would_clean_up_after_them() -> None:
    scene = Scene()
    scene.memory.extracts_from_turns = False
    empty = scene.kept()
    async with working(scene):
        for number in range(10):
            user_id = UserId(f"user{number}")
            await scene.keeper.forget(user_id)
            with pytest.raises(MemoryUnavailable):
                async with scene.keeper.writing(user_id):
                    raise MemoryUnavailable

    assert empty == scene.kept()


async def test_nothing_is_kept_of_users_for_whom_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("application.memory.outbox_worker.LONGEST_TURN", 0.0)
    monkeypatch.setattr("application.memory.outbox_worker.LATE", 0.0)
    scene = Scene()
    empty = scene.kept()
    async with working(scene):
        for number in range(10):
            user_id = UserId(f"user{number}")
            await scene.completed("I like tea", user_id)
            assert await scene.keeper.forget(user_id)
            with pytest.raises(MemoryUnavailable):
                async with scene.keeper.writing(user_id):
                    raise MemoryUnavailable

    assert empty == scene.kept()
