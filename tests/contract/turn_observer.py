"""The contract suite of TurnObserver."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from application.ports.credentials import Cause
from application.ports.history import HistoryUnavailable, HistoryWriteFailed
from application.ports.llm import LLMAuthFailed, LLMDisconnected, LLMRedirected, LLMUnreachable
from application.ports.memory import MemoryLeaked, MemoryUnavailable
from application.ports.turn_observer import (
    AbandonedTurnsEnded,
    AuthenticationFailed,
    BackgroundFailure,
    ContextWindowExceeded,
    Event,
    FirstDelta,
    MemoriesRecalled,
    ReplyLimitLowered,
    SigningKeysNotFetched,
    StoreCalled,
    StoreFailing,
    StoreRecovered,
    TurnAccepted,
    TurnBegun,
    TurnEnded,
    TurnFenced,
    TurnObserver,
    TurnRejected,
    Where,
)
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, Usage, UserId
from domain.errors import Cancelled, ChatError, InternalError, TurnInProgress, WorkerLost
from tests.contract.suite import Suite

TURN = Turn(
    TurnId("00000000-0000-4000-8000-000000000001"),
    UserId("ada"),
    DEFAULT_CONVERSATION,
    datetime(2026, 3, 1, tzinfo=UTC),
    "Hello",
)
COMPLETED = TurnEnded(TURN.completed("Hi", "stop", Usage(10, 4)), None, 1.5, 0.5, deltas=2, memories=3)
BARE = TurnEnded(TURN.completed("", "stop"), None, 0.0, None, deltas=0, memories=None)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("not printable")


class TurnObserverContract(Suite[TurnObserver]):
    """Run by every TurnObserver: no event may raise, since a turn must not fail because it is observed."""

    @pytest.fixture
    async def observer(self, tmp_path: Path) -> AsyncIterator[TurnObserver]:
        async with self.opened(tmp_path) as observer:
            yield observer

    @pytest.mark.parametrize(
        "event",
        [
            TurnBegun(TURN),
            TurnRejected(TURN.user_id, TURN.conversation_id, TurnInProgress()),
            MemoriesRecalled(TURN, 0.1, 3),
            MemoriesRecalled(TURN, 1.0, None),
            TurnAccepted(TURN, 0.2),
            FirstDelta(TURN, 0.3),
            COMPLETED,
            BARE,
            replace(COMPLETED, turn=TURN.completed("Hi", "length", Usage(10, 4, estimated=True))),
            ContextWindowExceeded(5_000, 4_096, 14_000),
            ContextWindowExceeded(5_000, None, 14_000),
            ReplyLimitLowered(1_000, 984),
            AbandonedTurnsEnded(2),
            TurnFenced(TURN.ended_by(WorkerLost())),
            StoreCalled("begin", 0.001, None),
            StoreCalled("begin", 5.0, HistoryUnavailable()),
            StoreFailing(HistoryUnavailable(explanation="The disk is full."), 0.0),
            StoreRecovered(5.0),
            AuthenticationFailed(Cause.WRONG_SECRET, "192.0.2.1", "0123456789abcdef", throttled=False),
            AuthenticationFailed(Cause.MALFORMED, "", None, throttled=True),
            SigningKeysNotFetched("The identity provider did not respond.", None),
            SigningKeysNotFetched("The identity provider did not respond.", 400.0),
        ],
        ids=lambda event: type(event).__name__,
    )
    async def test_every_event_can_be_observed(self, observer: TurnObserver, event: Event) -> None:
        observer.observe(event)

    @pytest.mark.parametrize(
        "error",
        [
            LLMUnreachable(),
            LLMAuthFailed(),
            LLMRedirected(),
            LLMDisconnected(),
            HistoryWriteFailed(),
            InternalError(),
            Cancelled(),
            WorkerLost(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_a_turn_that_ended_with_an_error_can_be_observed(
        self, observer: TurnObserver, error: ChatError
    ) -> None:
        observer.observe(replace(BARE, turn=TURN.ended_by(error), error=error))

    @pytest.mark.parametrize("where", Where)
    @pytest.mark.parametrize(
        "error",
        [MemoryUnavailable(), MemoryLeaked(), ValueError("a\nb\0c"), UnprintableError()],
        ids=lambda error: type(error).__name__,
    )
    async def test_a_background_failure_can_be_observed(
        self, observer: TurnObserver, where: Where, error: Exception
    ) -> None:
        observer.observe(BackgroundFailure(where, error))

    async def test_the_same_event_can_be_observed_twice(self, observer: TurnObserver) -> None:
        for _ in range(2):
            observer.observe(COMPLETED)
