"""Reading and deleting a user's history."""

from dataclasses import dataclass

from application.memory.forgetting import Forgetting
from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns
from domain.conversation import Conversation, ConversationId, Turn, UserId
from domain.paging import Page
from domain.title import normalized


@dataclass(frozen=True)
class GetHistory:
    """Return a page of a user's turns, oldest first; the newest page if no cursor is given."""

    history: ConversationHistory

    async def __call__(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        return await self.history.page(user_id, conversation_id, limit, cursor)


@dataclass(frozen=True)
class ListConversations:
    """Return a page of a user's conversations, most recently used first."""

    history: ConversationHistory

    async def __call__(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        return await self.history.conversations(user_id, limit, cursor)


@dataclass(frozen=True)
class RenameConversation:
    """Set the title of a conversation, or reset it to the one from its first message if it is blank.

    Raises:
        ConversationNotFound: The user has no such conversation.
    """

    history: ConversationHistory

    async def __call__(self, user_id: UserId, conversation_id: ConversationId, title: str) -> Conversation:
        return await self.history.set_title(user_id, conversation_id, normalized(title) or None)


@dataclass(frozen=True, slots=True)
class Cleared:
    """The number of deleted turns, and whether the user's memories are certainly gone (None if not requested)."""

    turns: int
    memories: bool | None


@dataclass(frozen=True)
class ClearHistory:
    """Delete a user's turns, including running ones, and their event logs; with `memories`, the user's memories, too.

    Turns are deleted first, event logs second, memories last, in separate transactions. A call that raises or is
    cancelled may have deleted only a part, and nothing deletes the rest later: repeat the call until it returns, which
    is always safe.

    Raises:
        HistoryUnavailable, LiveTurnsUnavailable, LongTermMemoryError: see the ports, and `Forgetting.forget`.
    """

    history: ConversationHistory
    live_turns: LiveTurns
    forgetting: Forgetting

    async def __call__(
        self, user_id: UserId, conversation_id: ConversationId | None, *, memories: bool = False
    ) -> Cleared:
        turns = await self.history.clear(user_id, conversation_id)
        await self.live_turns.discard(user_id, conversation_id)
        return Cleared(turns, await self.forgetting.forget(user_id) if memories else None)
