"""What can be asked of the history."""

from dataclasses import dataclass

from application.memory.outbox_worker import MemoryKeeper
from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns
from domain.conversation import Conversation, ConversationId, Turn, UserId
from domain.paging import Page


@dataclass(frozen=True)
class GetHistory:
    """A page of a user's turns, oldest first; the newest page where no cursor is given."""

    history: ConversationHistory

    async def __call__(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        return await self.history.page(user_id, conversation_id, limit, cursor)


@dataclass(frozen=True)
class ListConversations:
    """A page of a user's conversations, the one with the latest turn first."""

    history: ConversationHistory

    async def __call__(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        return await self.history.conversations(user_id, limit, cursor)


@dataclass(frozen=True, slots=True)
class Cleared:
    """How many turns were deleted, and whether the user's memories are certainly gone, None where they were to stay."""

    turns: int
    memories: bool | None


@dataclass(frozen=True)
class ClearHistory:
    """Delete a user's turns, running ones too, what is kept for following them, and on demand the user's memories."""

    history: ConversationHistory
    live_turns: LiveTurns
    keeper: MemoryKeeper

    async def __call__(
        self, user_id: UserId, conversation_id: ConversationId | None, *, memories: bool = False
    ) -> Cleared:
        turns = await self.history.clear(user_id, conversation_id)
        await self.live_turns.discard(user_id, conversation_id)
        return Cleared(turns, await self.keeper.forget(user_id) if memories else None)
