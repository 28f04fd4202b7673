"""Taking a conversation from the turn that runs in it: what becomes of a lease that is not used."""

import anyio
import pytest

from application.ports.conversation_leases import ConversationLeases, Lease
from application.ports.history import HistoryUnavailable
from application.ports.live_turns import LiveTurnsUnavailable
from application.ports.turn_observer import Where
from application.turns.superseding import Superseding
from domain.conversation import DEFAULT_CONVERSATION, TurnId, UserId
from tests.harness.script import application

ANN = UserId("ann")
NEW = TurnId("new")


class UnreleasableLease(Lease):
    """The store that keeps the lease fails, or does not respond."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs

    async def release(self, *, turn_ended: bool = False) -> None:
        if self._hangs:
            await anyio.sleep_forever()
        raise HistoryUnavailable


class FreedWhenTheStopFails(ConversationLeases):
    """The conversation becomes free at the moment at which stopping its turn fails."""

    def __init__(self, *, hangs: bool) -> None:
        self._lease = UnreleasableLease(hangs=hangs)
        self._is_free = anyio.Event()

    async def acquire(self, *_: object, **__: object) -> Lease:
        with anyio.CancelScope(shield=True):
            await self._is_free.wait()
        return self._lease

    async def holder(self, user_id: UserId, conversation_id: object) -> TurnId | None:
        self._is_free.set()
        raise LiveTurnsUnavailable


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_lease_that_cannot_be_released_does_not_hide_why_no_turn_has_begun(hangs: bool) -> None:
    async with application() as app:
        leases = FreedWhenTheStopFails(hangs=hangs)
        superseding = Superseding(leases, app.live_turns, app.send.keyed_turns, app.observer)

        with pytest.raises(LiveTurnsUnavailable):
            await superseding.acquire(NEW, ANN, DEFAULT_CONVERSATION, None, 1)

        assert [where for where, _ in app.observer.failures] == [Where.RELEASING_LEASE]
