"""Looking at, following and stopping one turn.

`owner` is the user the turn has to belong to; None skips the check, for operators.
"""

from dataclasses import dataclass

from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns
from application.turns.handle import TurnHandle
from domain.conversation import Turn, TurnId, UserId


@dataclass(frozen=True)
class GetTurn:
    """Return one turn, running or ended."""

    history: ConversationHistory

    async def __call__(self, turn_id: TurnId, owner: UserId | None) -> Turn:
        return await self.history.get(turn_id, owner)


@dataclass(frozen=True)
class FollowTurn:
    """Join the readers of a running or recently finished turn, after the event numbered `after`."""

    live_turns: LiveTurns

    async def __call__(self, turn: Turn, after: int) -> TurnHandle:
        return TurnHandle(turn, await self.live_turns.join(turn.id, turn.user_id, after), after)


@dataclass(frozen=True)
class StopTurn:
    """Stop a running turn and return it as it ended. A turn that has ended is returned unchanged."""

    history: ConversationHistory
    live_turns: LiveTurns

    async def __call__(self, turn_id: TurnId, owner: UserId | None) -> Turn:
        turn = await self.history.get(turn_id, owner)
        await self.live_turns.stop(turn_id, turn.user_id)
        return await self.history.get(turn_id, owner)
