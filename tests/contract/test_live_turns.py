"""What every LiveTurns does: logs that any number of readers follow."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import anyio
import pytest

from adapters import live_turns_in_process
from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.live_turns import Batch, End, LiveTurns, Reader, TurnLog
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, ClientDisconnected, Interruption, OutputLimit, StreamExpired

STOP = End("stop", None)
CUT = End(None, OutputLimit())
LONG = 30.0
"""Seconds of silence that no test waits for."""


@pytest.fixture(params=[LiveTurnsInProcess], ids=["in_process"])
def live(request: pytest.FixtureRequest) -> LiveTurns:
    make: Callable[[], LiveTurns] = request.param
    return make()


@dataclass
class Running:
    """A turn as whoever runs it sees it: its log, and who wanted it to end."""

    turn: Turn
    log: TurnLog
    stops: list[Interruption] = field(default_factory=list)

    @property
    def id(self) -> TurnId:
        return self.turn.id


async def begun(
    live: LiveTurns, user: str = "ann", conversation: str = DEFAULT_CONVERSATION, *, stop_when_left: bool = True
) -> Running:
    turn = Turn(
        TurnId(str(uuid4())), UserId(user), ConversationId(conversation), datetime(2026, 1, 1, tzinfo=UTC), "Hello"
    )
    stops: list[Interruption] = []
    return Running(turn, await live.open(turn, stops.append, stop_when_left=stop_when_left), stops)


async def rest(reader: Reader) -> tuple[Sequence[str], End | None]:
    """Every text from here to the end, and the end."""
    texts: list[str] = []
    while True:
        batch = await reader.next(LONG)
        texts += batch.texts
        if batch.end is not None:
            return texts, batch.end


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_reader_gets_what_was_there_when_it_joined(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.append(["a", "b"])

    async with await live.join(running.id) as reader:
        assert Batch(1, ["a", "b"], None) == await reader.next(LONG)


async def test_a_reader_gets_what_has_gathered_since_it_last_asked(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as reader:
        await running.log.append(["a"])
        await reader.next(LONG)
        await running.log.append(["b"])
        await running.log.append(["c", "d"])

        assert Batch(2, ["b", "c", "d"], None) == await reader.next(LONG)


async def test_a_reader_wakes_when_something_comes(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as reader:
        asking = asyncio.create_task(reader.next(LONG))
        await settle()
        assert not asking.done()

        await running.log.append(["a"])

        assert Batch(1, ["a"], None) == await asking


async def test_a_reader_wakes_at_the_end(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as reader:
        asking = asyncio.create_task(reader.next(LONG))
        await settle()

        await running.log.close(STOP)

        assert Batch(1, [], STOP) == await asking


async def test_silence_is_told_as_an_empty_batch(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.append(["a"])
    async with await live.join(running.id) as reader:
        await reader.next(LONG)

        assert Batch(2, [], None) == await reader.next(0.01)


async def test_after_the_end_comes_the_end_again(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.append(["a"])
    await running.log.close(CUT)
    async with await live.join(running.id) as reader:
        assert Batch(1, ["a"], CUT) == await reader.next(LONG)
        assert Batch(2, [], CUT) == await reader.next(LONG)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_who_joins_behind_an_event_gets_what_follows_it(live: LiveTurns, after: int) -> None:
    running = await begun(live)
    await running.log.append(["a", "b", "c"])
    await running.log.close(STOP)

    async with await live.join(running.id, after) as reader:
        assert Batch(after + 1, ["a", "b", "c"][after:], STOP) == await reader.next(LONG)


async def test_who_joins_behind_what_is_yet_to_come_does_not_get_what_comes_before(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.append(["a"])
    async with await live.join(running.id, after=3) as reader:
        await running.log.append(["b", "c", "d"])

        assert Batch(4, ["d"], None) == await reader.next(LONG)


async def test_who_joins_behind_the_end_is_told_its_true_number(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.append(["a"])
    await running.log.close(STOP)

    async with await live.join(running.id, after=9) as reader:
        assert Batch(2, [], STOP) == await reader.next(LONG)


async def test_two_readers_get_the_same_each_at_its_own_pace(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as quick, await live.join(running.id) as slow:
        seen: list[str] = []
        for text in "abc":
            await running.log.append([text])
            seen += (await quick.next(LONG)).texts
        await running.log.close(CUT)

        assert await rest(slow) == (["a", "b", "c"], CUT)
        assert (seen, await rest(quick)) == (["a", "b", "c"], ([], CUT))


async def test_many_readers_that_wait_all_get_everything(live: LiveTurns) -> None:
    running = await begun(live)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(await live.join(running.id)) for _ in range(50)]
        reading = [asyncio.create_task(rest(reader)) for reader in readers]
        texts = [str(number) for number in range(200)]
        for text in texts:
            await running.log.append([text])
            if text.endswith("7"):
                await asyncio.sleep(0)
        await running.log.close(STOP)

        assert [(texts, STOP)] * 50 == await asyncio.gather(*reading)


async def test_a_reader_that_is_cancelled_while_it_waits_can_ask_again(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as reader:
        with anyio.move_on_after(0.01):
            await reader.next(LONG)
        await running.log.append(["a"])

        assert Batch(1, ["a"], None) == await reader.next(LONG)


async def test_the_last_reader_that_leaves_ends_the_turn(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id):
        async with await live.join(running.id):
            pass
        assert running.stops == []

    assert [ClientDisconnected] == [type(stop) for stop in running.stops]


async def test_a_reader_counts_as_present_from_its_joining(live: LiveTurns) -> None:
    running = await begun(live)
    second = await live.join(running.id)

    async with await live.join(running.id):
        pass

    assert running.stops == []
    async with second:
        pass
    assert len(running.stops) == 1


async def test_a_reader_leaves_only_once(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id):
        twice = await live.join(running.id)
        for _ in range(2):
            async with twice:
                pass

        assert running.stops == []


async def test_a_turn_that_keeps_running_is_not_ended_by_the_last_reader(live: LiveTurns) -> None:
    running = await begun(live, stop_when_left=False)
    async with await live.join(running.id):
        pass
    await running.log.append(["a"])

    assert running.stops == []
    async with await live.join(running.id) as reader:
        assert Batch(1, ["a"], None) == await reader.next(LONG)


async def test_a_turn_that_has_ended_is_not_ended_again_by_the_last_reader(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id):
        await running.log.close(STOP)

    assert running.stops == []


async def test_a_stop_asks_whoever_runs_the_turn_and_returns_when_it_has_ended(live: LiveTurns) -> None:
    running = await begun(live)
    stopping = asyncio.create_task(live.stop(running.id))
    await settle()

    assert [Cancelled] == [type(stop) for stop in running.stops]
    assert not stopping.done()
    await running.log.append(["the last words"])
    await settle()
    assert not stopping.done()
    await running.log.close(CUT)
    await stopping


async def test_a_stop_of_a_turn_that_has_ended_returns_at_once(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.close(STOP)

    await live.stop(running.id)

    assert running.stops == []


async def test_a_stop_of_a_turn_that_is_not_known_returns_at_once(live: LiveTurns) -> None:
    await live.stop(TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"))


async def test_an_unknown_turn_can_not_be_joined(live: LiveTurns) -> None:
    with pytest.raises(StreamExpired):
        await live.join(TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"))


async def test_a_log_is_kept_for_a_while_after_its_end(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.append(["a"])
    await running.log.close(STOP)
    for _ in range(20):
        await (await begun(live)).log.close(STOP)

    async with await live.join(running.id) as reader:
        assert await rest(reader) == (["a"], STOP)


async def test_a_discarded_turn_is_stopped_and_can_not_be_joined(live: LiveTurns) -> None:
    running = await begun(live)

    await live.discard(UserId("ann"), None)

    assert [Cancelled] == [type(stop) for stop in running.stops]
    with pytest.raises(StreamExpired):
        await live.join(running.id)


async def test_a_discarded_log_of_a_turn_that_ended_can_not_be_joined(live: LiveTurns) -> None:
    running = await begun(live)
    await running.log.close(STOP)

    await live.discard(UserId("ann"), None)

    with pytest.raises(StreamExpired):
        await live.join(running.id)
    assert running.stops == []


async def test_the_readers_of_a_discarded_turn_get_its_end_under_its_true_number(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as reader:
        await running.log.append(["a", "b"])
        await reader.next(LONG)

        await live.discard(UserId("ann"), None)
        await running.log.close(CUT)

        assert Batch(3, [], CUT) == await reader.next(LONG)


async def test_a_reader_that_lags_behind_gets_nothing_of_a_discarded_text(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id) as reader:
        await running.log.append(["secret", "words"])

        await live.discard(UserId("ann"), None)
        await running.log.close(CUT)

        assert "".join((await rest(reader))[0]) == ""


@pytest.mark.parametrize(
    ("conversation", "discarded"),
    [(None, ["home", "work"]), (ConversationId("work"), ["work"]), (ConversationId("other"), [])],
)
async def test_only_the_logs_that_are_meant_are_discarded(
    live: LiveTurns, conversation: ConversationId | None, discarded: list[str]
) -> None:
    others = await begun(live, "ben", "work")
    turns = {name: await begun(live, "ann", name) for name in ("home", "work")}

    await live.discard(UserId("ann"), conversation)

    assert discarded == [name for name, running in turns.items() if running.stops]
    assert others.stops == []


async def test_a_log_is_forgotten_after_its_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveTurnsInProcess()
    running = await begun(live)
    await running.log.close(STOP)
    monkeypatch.setattr(live_turns_in_process, "RETENTION", 0.0)
    await asyncio.sleep(0.01)

    with pytest.raises(StreamExpired):
        await live.join(running.id)


async def test_a_running_log_is_not_forgotten_however_long_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveTurnsInProcess()
    running = await begun(live)
    monkeypatch.setattr(live_turns_in_process, "RETENTION", 0.0)
    await asyncio.sleep(0.01)

    async with await live.join(running.id):
        pass


async def test_a_log_with_too_many_events_goes_on_and_can_not_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_turns_in_process, "MAX_EVENTS", 3)
    live = LiveTurnsInProcess()
    running = await begun(live)
    async with await live.join(running.id) as reader:
        await running.log.append(["a", "b", "c"])
        async with await live.join(running.id):
            pass
        await running.log.append(["d"])

        with pytest.raises(StreamExpired):
            await live.join(running.id)
        await running.log.close(STOP)
        assert await rest(reader) == (["a", "b", "c", "d"], STOP)


async def test_a_log_with_too_much_text_goes_on_and_can_not_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_turns_in_process, "MAX_BYTES", 1000)
    live = LiveTurnsInProcess()
    running = await begun(live)
    async with await live.join(running.id) as reader:
        await running.log.append(["x" * 1001])

        with pytest.raises(StreamExpired):
            await live.join(running.id)
        assert Batch(1, ["x" * 1001], None) == await reader.next(LONG)


async def test_the_oldest_finished_logs_go_first_where_all_together_take_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_turns_in_process, "MAX_FINISHED_BYTES", 6000)
    live = LiveTurnsInProcess()
    finished = []
    for _ in range(5):
        finished.append(await begun(live))
        await finished[-1].log.append(["x" * 1000])
        await finished[-1].log.close(STOP)

    kept = []
    for running in finished:
        try:
            await live.join(running.id)
        except StreamExpired:
            continue
        kept.append(running.id)

    assert [running.id for running in finished[-2:]] == kept


async def test_a_reader_that_is_ahead_of_the_log_is_not_told_of_what_it_has(live: LiveTurns) -> None:
    running = await begun(live)
    async with await live.join(running.id, after=3) as reader:
        told = asyncio.ensure_future(reader.next(LONG))
        for text in ("a", "b", "c", "d"):
            await anyio.wait_all_tasks_blocked()
            await running.log.append([text])

        assert Batch(4, ["d"], None) == await told
