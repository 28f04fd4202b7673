"""Turns from their rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from domain.conversation import ConversationId, Turn, TurnStatus, Usage, UserId


def turn_of(row: Sequence[Any]) -> Turn:
    """Return the turn of a row with the columns `reply_parts.TURN`."""
    id, user_id, conversation_id, _, started_at, user_message, reply, status, reason, _, _, *usage, _, _, chosen = row
    prompt_tokens, completion_tokens, estimated = usage
    return Turn(
        id,
        UserId(user_id),
        ConversationId(conversation_id),
        started_at,
        user_message,
        reply,
        TurnStatus(status),
        reason,
        None if prompt_tokens is None else Usage(prompt_tokens, completion_tokens, estimated),
        chosen,
    )


def end_values(turn: Turn) -> Mapping[str, Any]:
    """Return the values that the end of a turn changes, as parameters named `new_<column>`."""
    usage = turn.usage
    return {
        "turn_id": turn.id,
        "new_reply": turn.reply,
        "new_status": turn.status,
        "new_reason": turn.reason,
        "new_prompt_tokens": usage and usage.prompt_tokens,
        "new_completion_tokens": usage and usage.completion_tokens,
        "new_usage_estimated": usage and usage.estimated,
    }
