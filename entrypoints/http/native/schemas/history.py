"""Turns, as they are read. Documented keys come first, in their order."""

from typing import Self

from pydantic import BaseModel, Field

from domain.conversation import Turn, TurnStatus, UserId
from domain.paging import Page
from entrypoints.http.native.schemas.fields import (
    Count,
    NamedConversation,
    NextCursor,
    OwnerId,
    ReplyText,
    TurnIdField,
    UserMessage,
)
from entrypoints.http.timestamp import Timestamp


class TurnView(BaseModel):
    """A user's message and the reply to it."""

    timestamp: Timestamp = Field(description="When the turn began.")
    user_message: UserMessage
    assistant_response: ReplyText
    id: TurnIdField
    conversation_id: NamedConversation
    status: TurnStatus = Field(
        description="`completed`: the model finished. `failed`: an error ended the turn before any text. "
        "`interrupted`: cut off after some text, or stopped.",
        examples=["completed"],
    )
    reason: str | None = Field(
        description="Error code, or a finish reason other than `stop`; null while running or if completed normally.",
        examples=[None],
    )

    @classmethod
    def of(cls, turn: Turn) -> Self:
        return cls(
            timestamp=turn.started_at,
            user_message=turn.user_message,
            assistant_response=turn.reply,
            id=turn.public_id,
            conversation_id=turn.conversation_id,
            status=turn.status,
            reason=turn.reason,
        )


class HistoryView(BaseModel):
    """A page of a user's turns: the newest ones, or those before a cursor."""

    user_id: OwnerId
    history: list[TurnView] = Field(description="Oldest first.")
    count: Count
    next_cursor: NextCursor

    @classmethod
    def of(cls, user_id: UserId, page: Page[Turn]) -> Self:
        turns = [TurnView.of(turn) for turn in page.items]
        return cls(user_id=user_id, history=turns, count=len(turns), next_cursor=page.next_cursor)
