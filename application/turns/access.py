"""Looking at, following and stopping one turn."""

from dataclasses import dataclass

from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns
from application.turns.handle import TurnHandle
from domain.conversation import Turn, TurnId
from domain.errors import Forbidden, TurnNotFound
from domain.principal import Action, Principal, authorize


@dataclass(frozen=True)
class GetTurn:
    """Return one turn, running or ended, by the id by which clients know it.

    Raises:
        TurnNotFound: There is no such turn, or it belongs to a user for whom the principal may not act.
    """

    history: ConversationHistory

    async def __call__(self, turn_id: TurnId, principal: Principal) -> Turn:
        return await _get(self.history, turn_id, principal)


@dataclass(frozen=True)
class FollowTurn:
    """Join the readers of a running or recently finished turn, after the event numbered `after`."""

    live_turns: LiveTurns

    async def __call__(self, turn: Turn, after: int) -> TurnHandle:
        return TurnHandle(turn, await self.live_turns.join(turn.id, turn.user_id, after), after)


@dataclass(frozen=True)
class StopTurn:
    """Stop a running turn and return it as it ended. A turn that has ended is returned unchanged.

    Raises:
        TurnNotFound: As `GetTurn`; nothing was stopped.
    """

    history: ConversationHistory
    live_turns: LiveTurns

    async def __call__(self, turn_id: TurnId, principal: Principal) -> Turn:
        turn = await _get(self.history, turn_id, principal)
        await self.live_turns.stop(turn.id, turn.user_id)
        return await self.history.get(turn.id, turn.user_id)


@dataclass(frozen=True)
class StopTurnWhenLeft:
    """From now on, stop a turn when its last reader has left, although it was begun with `keep_running`."""

    live_turns: LiveTurns

    async def __call__(self, turn: Turn) -> None:
        await self.live_turns.stop_when_left(turn.id, turn.user_id)


async def _get(history: ConversationHistory, turn_id: TurnId, principal: Principal) -> Turn:
    turn = await history.get(turn_id, principal.user_id, principal.prefix)
    try:
        authorize(principal, Action.USER_DATA, turn.user_id)
    except Forbidden:  # which would disclose that there is such a turn
        raise TurnNotFound from None
    return turn
