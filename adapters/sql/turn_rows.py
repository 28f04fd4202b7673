"""Turns from their rows."""

from collections.abc import Sequence
from typing import Any

from domain.conversation import ConversationId, Turn, TurnStatus, UserId


def turn_of(row: Sequence[Any]) -> Turn:
    """The turn of a row with the columns of `tables.turns`, in their order."""
    id, user_id, conversation_id, _, started_at, user_message, reply, status, reason = row
    return Turn(
        id,
        UserId(user_id),
        ConversationId(conversation_id),
        started_at,
        user_message,
        reply,
        TurnStatus(status),
        reason,
    )
