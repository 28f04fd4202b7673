"""Ends of turns that the store did not accept: stored later, or dropped if the store accepts everything else."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from application.ports.history import HistoryUnavailable, TurnBegin, TurnEnd
from application.ports.turn_observer import BackgroundFailure
from application.turns.unstored_ends import UnstoredEnds
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId
from tests.harness.script import ANN, NOW, FailingHistory, Observed

DOWN = HistoryUnavailable()


class DamagedRow(FailingHistory):
    """Fails to store the end of one turn."""

    bad = TurnId("1")
    error: Exception = HistoryUnavailable()

    async def finish(self, end: TurnEnd) -> Turn | None:
        if end.turn.id == self.bad:
            self.calls.append("finish")
            raise self.error
        return await super().finish(end)


async def ended_turns(history: FailingHistory, *ids: str) -> Sequence[Turn]:
    turns = [Turn(TurnId(id), ANN, DEFAULT_CONVERSATION, NOW, "Hello") for id in ids]
    for turn in turns:
        await history.begin(TurnBegin(turn, timedelta(hours=1)))
    history.calls.clear()
    return [turn.completed("Hi", "stop") for turn in turns]


async def test_ends_are_kept_until_the_store_accepts_them() -> None:
    history, observer = FailingHistory(), Observed()
    turns = await ended_turns(history, "1", "2")
    ends = UnstoredEnds(history, observer, max_failures=2)
    for turn in turns:
        ends.add(turn)
    history.plans = {"finish": [DOWN] * 5, "probe_write": [DOWN] * 5}
    for _ in range(5):
        with pytest.raises(HistoryUnavailable):
            await ends.store()
        assert len(ends) == 2
    await ends.store()

    assert len(ends) == 0
    assert turns == [await history.get(turn.id, None) for turn in turns]
    assert history.calls.count("finish") == 5 + 2  # one for each round during the outage
    assert observer.events == []


async def test_an_end_that_alone_is_not_accepted_does_not_delay_others_and_is_dropped() -> None:
    history, observer = DamagedRow(), Observed()
    turns = await ended_turns(history, "1", "2", "3")
    ends = UnstoredEnds(history, observer, max_failures=3)
    for turn in turns:
        ends.add(turn)
    await ends.store()
    assert turns[1:] == [await history.get(turn.id, None) for turn in turns[1:]]
    assert len(ends) == 1
    await ends.store()
    assert observer.events == []
    await ends.store()

    assert len(ends) == 0
    assert [event.error for event in observer.events if isinstance(event, BackgroundFailure)] == [history.error]


async def test_an_error_that_will_not_pass_drops_the_end_at_once() -> None:
    history, observer = DamagedRow(), Observed()
    history.error = ValueError("a damaged row")
    ends = UnstoredEnds(history, observer)
    for turn in await ended_turns(history, "1"):
        ends.add(turn)
    await ends.store()

    assert len(ends) == 0
    assert len(observer.events) == 1


async def test_the_oldest_ends_are_dropped_beyond_the_limit() -> None:
    history = FailingHistory()
    ends = UnstoredEnds(history, Observed(), max_ends=2)
    for turn in await ended_turns(history, "1", "2", "3"):
        ends.add(turn)
    await ends.store()

    assert history.calls.count("finish") == 2
    assert (await history.get(TurnId("1"), None)).reply == ""
