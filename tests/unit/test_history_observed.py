"""The history that reports its calls: their duration and their outcome."""

import pytest

from adapters.history_observed import ObservedHistory
from application.ports.history import HistoryUnavailable, TurnEnd
from application.ports.turn_observer import StoreCalled
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId
from tests.harness.script import ANN, NOW, FailingHistory, Observed

END = TurnEnd(Turn(TurnId("1"), ANN, DEFAULT_CONVERSATION, NOW, "Hello").completed("Hi", "stop"))


@pytest.mark.parametrize("error", [HistoryUnavailable(), RuntimeError("a bug")], ids=["unavailable", "bug"])
async def test_a_call_that_raises_is_reported_with_its_error(error: Exception) -> None:
    observer = Observed()
    history = ObservedHistory(FailingHistory({"finish": [error]}), observer)
    with pytest.raises(type(error)):
        await history.finish(END)
    await history.finish(END)

    calls = [event for event in observer.events if isinstance(event, StoreCalled)]
    assert [("finish", error), ("finish", None)] == [(call.operation, call.error) for call in calls]
