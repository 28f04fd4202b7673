"""Conversations: their list, titles and deletion."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field

from application.turns.history import Cleared
from domain.conversation import Conversation, UserId
from domain.paging import Page
from domain.title import MAX_SET_TITLE_CHARS
from entrypoints.http.native.schemas.fields import (
    Count,
    NamedConversation,
    NextCursor,
    Outcome,
    OwnerId,
    check_storable,
    outcome_of,
)
from entrypoints.http.timestamp import Timestamp


class ClearedView(BaseModel):
    """What was deleted."""

    user_id: OwnerId
    deleted: int = Field(description="Number of turns that were deleted.", examples=[12])
    memories: Outcome | None = Field(
        None,
        description="Present only with `memories=true`. `pending` if deletion is not confirmed yet and continues in "
        "the background.",
        examples=["deleted"],
    )

    @classmethod
    def of(cls, user_id: UserId, cleared: Cleared) -> Self:
        memories = None if cleared.memories is None else outcome_of(cleared.memories)
        return cls(user_id=user_id, deleted=cleared.turns, memories=memories)


class ConversationView(BaseModel):
    """One of a user's conversations."""

    id: NamedConversation
    created_at: Timestamp = Field(description="Start of the first turn.")
    updated_at: Timestamp = Field(description="Start of the latest turn.")
    turns: int = Field(description="Number of turns.", examples=[12])
    title: str = Field(
        description="The title that was set, or else the first message, cut to 80 characters.", examples=["Holidays"]
    )

    @classmethod
    def of(cls, conversation: Conversation) -> Self:
        return cls(
            id=conversation.id,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
            turns=conversation.turns,
            title=conversation.title,
        )


class RenameRequest(BaseModel):
    """A new title for a conversation."""

    title: Annotated[str, AfterValidator(check_storable)] = Field(
        description="New title. If it is blank, the conversation gets the title from its first message again.",
        max_length=MAX_SET_TITLE_CHARS,
        examples=["Holidays"],
    )


class ConversationsView(BaseModel):
    """A page of a user's conversations."""

    user_id: OwnerId
    conversations: list[ConversationView] = Field(description="Most recently updated first.")
    count: Count
    next_cursor: NextCursor

    @classmethod
    def of(cls, user_id: UserId, page: Page[Conversation]) -> Self:
        views = [ConversationView.of(conversation) for conversation in page.items]
        return cls(user_id=user_id, conversations=views, count=len(views), next_cursor=page.next_cursor)
