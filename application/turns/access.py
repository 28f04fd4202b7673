"""What can be asked of one turn."""

from dataclasses import dataclass

from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns, Reader
from domain.conversation import Turn, TurnId


@dataclass(frozen=True)
class GetTurn:
    """One turn, running or ended."""

    history: ConversationHistory

    async def __call__(self, turn_id: TurnId) -> Turn:
        return await self.history.get(turn_id)


@dataclass(frozen=True)
class FollowTurn:
    """Join the readers of a running or just finished turn, behind an event's number."""

    live_turns: LiveTurns

    async def __call__(self, turn_id: TurnId, after: int) -> Reader:
        return await self.live_turns.join(turn_id, after)


@dataclass(frozen=True)
class StopTurn:
    """End a running turn and wait for it to be stored; a turn that has ended stays as it is."""

    history: ConversationHistory
    live_turns: LiveTurns

    async def __call__(self, turn_id: TurnId) -> Turn:
        await self.history.get(turn_id)
        await self.live_turns.stop(turn_id)
        return await self.history.get(turn_id)
