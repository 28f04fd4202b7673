"""The contract suite of LiveTurns."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from application.ports.live_turns import DELETED, Batch, End, EventLog, LiveTurns, LiveTurnsUnavailable, Reader
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, ClientDisconnected, Failure, Interruption, OutputLimit, StreamExpired, Superseded
from tests.contract.suite import Suite

ANN, BEN = UserId("ann"), UserId("ben")
STOP = End("stop", None)
CUT = End(None, Failure.of(OutputLimit()))
LONG = 30.0
"""Seconds: an idle timeout that no test reaches."""


@dataclass
class Running:
    """A running turn, its log, and the reasons it was stopped for."""

    turn: Turn
    log: EventLog
    stops: list[Interruption] = field(default_factory=list)

    @property
    def id(self) -> TurnId:
        return self.turn.id


async def begin(
    live: LiveTurns, user: str = "ann", conversation: str = DEFAULT_CONVERSATION, *, stop_when_left: bool = True
) -> Running:
    turn = Turn(
        TurnId(str(uuid4())), UserId(user), ConversationId(conversation), datetime(2026, 1, 1, tzinfo=UTC), "Hello"
    )
    stops: list[Interruption] = []
    return Running(turn, await live.open(turn, stops.append, stop_when_left=stop_when_left), stops)


async def read_to_end(reader: Reader) -> tuple[Sequence[str], End | None]:
    """The remaining deltas and the end."""
    deltas: list[str] = []
    while True:
        batch = await reader.next(LONG)
        assert batch is not None
        deltas += batch.deltas
        if batch.end is not None:
            return deltas, batch.end


async def run_other_tasks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def stops_of(running: Running) -> Sequence[Interruption]:
    """The reasons a turn was stopped for, once there are any."""
    with anyio.fail_after(10):
        while not running.stops:
            await asyncio.sleep(0.001)
    return running.stops


class LiveTurnsContract(Suite[LiveTurns]):
    """Run by every LiveTurns."""

    @pytest.fixture
    async def live(self, tmp_path: Path) -> AsyncIterator[LiveTurns]:
        async with self.opened(tmp_path) as live:
            yield live

    async def test_a_reader_receives_earlier_events_after_joining(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.append(["a", "b"])

        async with await live.join(running.id, ANN) as reader:
            assert Batch(1, ["a", "b"], False, None) == await reader.next(LONG)

    async def test_a_reader_receives_everything_since_its_last_read_in_one_batch(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            running.log.append(["a"])
            await reader.next(LONG)
            running.log.append(["b"])
            running.log.append(["c", "d"])

            assert Batch(2, ["b", "c", "d"], False, None) == await reader.next(LONG)

    async def test_an_append_wakes_a_waiting_reader(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            asking = asyncio.create_task(reader.next(LONG))
            await run_other_tasks()
            assert not asking.done()

            running.log.append(["a"])

            assert Batch(1, ["a"], False, None) == await asking

    async def test_the_end_wakes_a_waiting_reader(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            asking = asyncio.create_task(reader.next(LONG))
            await run_other_tasks()

            await running.log.close(STOP)

            assert Batch(1, [], False, STOP) == await asking

    async def test_an_idle_wait_returns_nothing(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.append(["a"])
        async with await live.join(running.id, ANN) as reader:
            await reader.next(LONG)

            assert await reader.next(0.01) is None

    async def test_a_shorter_wait_ends_before_a_longer_one_that_was_cut_short(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            with anyio.move_on_after(0.01):
                await reader.next(LONG)

            with anyio.fail_after(5):
                assert await reader.next(0.01) is None

    async def test_acceptance_wakes_a_waiting_reader_once_and_has_no_number(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            asking = asyncio.create_task(reader.next(LONG))
            await run_other_tasks()

            running.log.accept()

            assert Batch(1, [], True, None) == await asking
            assert await reader.next(0.01) is None
            running.log.append(["a"])
            assert Batch(1, ["a"], True, None) == await reader.next(LONG)

    async def test_a_log_that_was_never_accepted_says_so_at_its_end(self, live: LiveTurns) -> None:
        running = await begin(live)
        await running.log.close(CUT)
        async with await live.join(running.id, ANN) as reader:
            assert Batch(1, [], False, CUT) == await reader.next(LONG)

    async def test_abandoning_a_log_ends_it_for_its_readers(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            running.log.append(["a"])
            await reader.next(LONG)
            asking = asyncio.create_task(reader.next(LONG))
            await run_other_tasks()

            running.log.abandon()

            assert Batch(2, [], False, End(None, Failure.of(LiveTurnsUnavailable()))) == await asking

    async def test_abandoning_a_log_does_not_stop_its_turn(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN):
            running.log.abandon()

        assert running.stops == []

    async def test_a_turn_whose_log_was_abandoned_can_be_stopped(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.abandon()

        await live.stop(running.id, ANN)

        assert [Cancelled] == list(map(type, running.stops))

    async def test_discarding_an_abandoned_log_stops_its_turn(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.abandon()

        await live.discard(ANN, None)

        assert [Cancelled] == list(map(type, running.stops))

    async def test_a_reader_that_was_lost_does_not_stop_the_turn(self, live: LiveTurns) -> None:
        running = await begin(live)
        reader = await live.join(running.id, ANN)

        await reader.__aexit__(LiveTurnsUnavailable, LiveTurnsUnavailable(), None)

        assert running.stops == []

    async def test_abandoning_a_closed_log_changes_nothing(self, live: LiveTurns) -> None:
        running = await begin(live)
        await running.log.close(STOP)
        running.log.abandon()

        async with await live.join(running.id, ANN) as reader:
            assert Batch(1, [], False, STOP) == await reader.next(LONG)

    async def test_another_users_turn_cannot_be_joined(self, live: LiveTurns) -> None:
        running = await begin(live)

        with pytest.raises(StreamExpired):
            await live.join(running.id, BEN)

    async def test_another_users_turn_cannot_be_stopped(self, live: LiveTurns) -> None:
        running = await begin(live)

        await live.stop(running.id, BEN)

        assert running.stops == []

    async def test_an_operator_can_join_and_stop_any_turn(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, None) as reader:
            stopping = asyncio.create_task(live.stop(running.id, None))
            await run_other_tasks()
            await running.log.close(CUT)
            await stopping

            assert [Cancelled] == [type(stop) for stop in running.stops]
            assert Batch(1, [], False, CUT) == await reader.next(LONG)

    async def test_a_turn_is_stopped_because_of_the_given_interruption(self, live: LiveTurns) -> None:
        running = await begin(live)
        stopping = asyncio.create_task(live.stop(running.id, ANN, Superseded()))
        await run_other_tasks()
        await running.log.close(CUT)
        await stopping

        assert [Superseded] == [type(stop) for stop in running.stops]

    async def test_reading_after_the_end_returns_the_end_again(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.append(["a"])
        await running.log.close(CUT)
        async with await live.join(running.id, ANN) as reader:
            assert Batch(1, ["a"], False, CUT) == await reader.next(LONG)
            assert Batch(2, [], False, CUT) == await reader.next(LONG)

    @pytest.mark.parametrize("after", [0, 1, 2, 3])
    async def test_joining_after_an_event_skips_it_and_earlier_ones(self, live: LiveTurns, after: int) -> None:
        running = await begin(live)
        running.log.append(["a", "b", "c"])
        await running.log.close(STOP)

        async with await live.join(running.id, ANN, after) as reader:
            assert Batch(after + 1, ["a", "b", "c"][after:], False, STOP) == await reader.next(LONG)

    async def test_joining_ahead_of_the_log_skips_the_events_up_to_that_number(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.append(["a"])
        async with await live.join(running.id, ANN, after=3) as reader:
            running.log.append(["b", "c", "d"])

            assert Batch(4, ["d"], False, None) == await reader.next(LONG)

    async def test_joining_after_the_end_returns_the_end_with_its_own_number(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.append(["a"])
        await running.log.close(STOP)

        async with await live.join(running.id, ANN, after=9) as reader:
            assert Batch(2, [], False, STOP) == await reader.next(LONG)

    async def test_two_readers_receive_the_same_events_at_their_own_pace(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as quick, await live.join(running.id, ANN) as slow:
            seen: list[str] = []
            for text in "abc":
                running.log.append([text])
                batch = await quick.next(LONG)
                assert batch is not None
                seen += batch.deltas
            await running.log.close(CUT)

            assert await read_to_end(slow) == (["a", "b", "c"], CUT)
            assert (seen, await read_to_end(quick)) == (["a", "b", "c"], ([], CUT))

    async def test_many_waiting_readers_all_receive_every_event(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(await live.join(running.id, ANN)) for _ in range(50)]
            reading = [asyncio.create_task(read_to_end(reader)) for reader in readers]
            deltas = [str(number) for number in range(200)]
            for text in deltas:
                running.log.append([text])
                if text.endswith("7"):
                    await asyncio.sleep(0)
            await running.log.close(STOP)

            assert [(deltas, STOP)] * 50 == await asyncio.gather(*reading)

    async def test_a_reader_cancelled_while_waiting_can_read_again(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            with anyio.move_on_after(0.01):
                await reader.next(LONG)
            running.log.append(["a"])

            assert Batch(1, ["a"], False, None) == await reader.next(LONG)

    async def test_a_turn_of_this_process_is_not_remote(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            assert not reader.is_remote

    async def test_the_turn_is_stopped_when_its_last_reader_leaves(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN):
            async with await live.join(running.id, ANN):
                pass
            assert running.stops == []

        assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]

    async def test_a_reader_is_present_as_soon_as_join_returns(self, live: LiveTurns) -> None:
        running = await begin(live)
        second = await live.join(running.id, ANN)

        async with await live.join(running.id, ANN):
            pass

        assert running.stops == []
        async with second:
            pass
        assert len(await stops_of(running)) == 1

    async def test_a_reader_leaves_only_once(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN):
            twice = await live.join(running.id, ANN)
            for _ in range(2):
                async with twice:
                    pass

            assert running.stops == []

    async def test_a_turn_without_stop_when_left_outlives_its_last_reader(self, live: LiveTurns) -> None:
        running = await begin(live, stop_when_left=False)
        async with await live.join(running.id, ANN):
            pass
        running.log.append(["a"])

        assert running.stops == []
        async with await live.join(running.id, ANN) as reader:
            assert Batch(1, ["a"], False, None) == await reader.next(LONG)

    async def test_a_turn_may_need_readers_from_a_later_time_on(self, live: LiveTurns) -> None:
        running = await begin(live, stop_when_left=False)
        async with await live.join(running.id, ANN):
            async with await live.join(running.id, ANN):
                for _ in range(2):
                    await live.stop_when_left(running.id, ANN)
            assert running.stops == []

        assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]

    async def test_a_turn_that_needs_readers_and_has_none_is_stopped(self, live: LiveTurns) -> None:
        running = await begin(live, stop_when_left=False)
        await live.stop_when_left(running.id, BEN)
        await live.stop_when_left(TurnId("unknown"), ANN)
        await run_other_tasks()
        assert running.stops == []

        await live.stop_when_left(running.id, ANN)
        assert [ClientDisconnected] == [type(stop) for stop in await stops_of(running)]

    async def test_a_finished_turn_needs_no_readers(self, live: LiveTurns) -> None:
        running = await begin(live, stop_when_left=False)
        await running.log.close(STOP)
        await live.stop_when_left(running.id, ANN)
        await run_other_tasks()

        assert running.stops == []

    async def test_a_finished_turn_is_not_stopped_when_its_last_reader_leaves(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN):
            await running.log.close(STOP)

        assert running.stops == []

    async def test_stop_cancels_the_turn_and_waits_until_it_has_ended(self, live: LiveTurns) -> None:
        running = await begin(live)
        stopping = asyncio.create_task(live.stop(running.id, ANN))
        await run_other_tasks()

        assert [Cancelled] == [type(stop) for stop in running.stops]
        assert not stopping.done()
        running.log.append(["the last words"])
        await run_other_tasks()
        assert not stopping.done()
        await running.log.close(CUT)
        await stopping

    async def test_stopping_a_finished_turn_returns_immediately(self, live: LiveTurns) -> None:
        running = await begin(live)
        await running.log.close(STOP)

        await live.stop(running.id, ANN)

        assert running.stops == []

    async def test_stopping_an_unknown_turn_returns_immediately(self, live: LiveTurns) -> None:
        await live.stop(TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"), None)

    async def test_an_unknown_turn_cannot_be_joined(self, live: LiveTurns) -> None:
        with pytest.raises(StreamExpired):
            await live.join(TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"), None)

    async def test_a_finished_log_can_still_be_joined(self, live: LiveTurns) -> None:
        running = await begin(live)
        running.log.append(["a"])
        await running.log.close(STOP)
        for _ in range(20):
            await (await begin(live)).log.close(STOP)

        async with await live.join(running.id, ANN) as reader:
            assert await read_to_end(reader) == (["a"], STOP)

    async def test_discarding_a_running_turn_stops_it_and_prevents_joining(self, live: LiveTurns) -> None:
        running = await begin(live)

        await live.discard(ANN, None)

        assert [Cancelled] == [type(stop) for stop in running.stops]
        with pytest.raises(StreamExpired):
            await live.join(running.id, ANN)

    async def test_discarding_a_finished_turn_prevents_joining(self, live: LiveTurns) -> None:
        running = await begin(live)
        await running.log.close(STOP)

        await live.discard(ANN, None)

        with pytest.raises(StreamExpired):
            await live.join(running.id, ANN)
        assert running.stops == []

    async def test_readers_of_a_discarded_turn_receive_the_end_with_its_own_number(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            running.log.append(["a", "b"])
            await reader.next(LONG)

            await live.discard(ANN, None)
            await running.log.close(CUT)

            assert Batch(3, (), False, DELETED) == await reader.next(LONG)

    async def test_a_slow_reader_receives_only_the_end_after_a_discard(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            running.log.append(["secret", "words"])

            await live.discard(ANN, None)
            await running.log.close(CUT)

            assert Batch(3, (), False, DELETED) == await reader.next(LONG)

    async def test_text_appended_after_a_discard_reaches_no_reader(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as early, await live.join(running.id, ANN, after=3) as ahead:
            running.log.append(["a", "b"])
            await early.next(LONG)
            reading = asyncio.create_task(early.next(LONG))
            await run_other_tasks()

            await live.discard(ANN, None)
            running.log.append(["c", "d"])
            await run_other_tasks()
            assert not reading.done()
            await running.log.close(CUT)

            assert Batch(3, (), False, DELETED) == await reading
            assert Batch(3, (), False, DELETED) == await ahead.next(LONG)

    async def test_a_turn_discarded_before_it_is_closed_as_complete_ends_as_deleted(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            running.log.append(["a"])

            await live.discard(ANN, None)
            await running.log.close(STOP)

            assert Batch(2, (), False, DELETED) == await reader.next(LONG)

    async def test_a_reader_of_a_finished_log_that_is_discarded_receives_only_its_end(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN) as reader:
            running.log.append(["a", "b"])
            await running.log.close(STOP)

            await live.discard(ANN, None)

            assert Batch(3, (), False, DELETED) == await reader.next(LONG)

    @pytest.mark.parametrize(
        ("conversation", "discarded"),
        [(None, ["home", "work"]), (ConversationId("work"), ["work"]), (ConversationId("other"), [])],
    )
    async def test_discard_is_limited_to_the_user_and_conversation(
        self, live: LiveTurns, conversation: ConversationId | None, discarded: list[str]
    ) -> None:
        others = await begin(live, "ben", "work")
        turns = {name: await begin(live, "ann", name) for name in ("home", "work")}

        await live.discard(ANN, conversation)

        assert discarded == [name for name, running in turns.items() if running.stops]
        assert others.stops == []

    async def test_a_reader_ahead_of_the_log_does_not_wake_for_events_it_has(self, live: LiveTurns) -> None:
        running = await begin(live)
        async with await live.join(running.id, ANN, after=3) as reader:
            told = asyncio.ensure_future(reader.next(LONG))
            for text in ("a", "b", "c", "d"):
                await anyio.wait_all_tasks_blocked()
                running.log.append([text])

            assert Batch(4, ["d"], False, None) == await told
