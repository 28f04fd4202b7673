"""What is said, by whom, and how a turn ends."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, NewType, Self

from domain.errors import ChatError, Interruption

ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:@|+=~-]{0,127}"
"""The grammar of ids that clients choose.

It covers UUIDs, e-mail addresses and `auth0|…`, and leaves out whatever would make data
unreachable in a URL (`/`, `%`, white space) or stand for several users in a store (`*`).
"""

_ID = re.compile(ID_PATTERN)


class _Id(str):
    """A string that is a well-formed id; `ValueError` otherwise."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _ID.fullmatch(value):
            raise ValueError(
                "must be 1 to 128 characters, start with an ASCII letter or digit, "
                "and hold only those and . _ : @ | + = ~ -"
            )
        return super().__new__(cls, value)


class UserId(_Id):
    """Who a conversation belongs to."""

    __slots__ = ()


class ConversationId(_Id):
    """One of a user's conversations; unique within the user only."""

    __slots__ = ()


DEFAULT_CONVERSATION: Final = ConversationId("default")

TurnId = NewType("TurnId", str)
"""A turn's id: a lower-case UUID, unique across users."""


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the model gets to see it."""

    role: Role
    text: str


class Exchange(NamedTuple):
    """What was said in a turn, and nothing else of it."""

    user_message: str
    reply: str


class TurnStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    """The model said why it stopped; the reply is whole, or as whole as `reason` says."""
    FAILED = "failed"
    """An error ended the turn before any text."""
    INTERRUPTED = "interrupted"
    """Cut after some text, or ended on purpose: by its client, a stop or the shutdown."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's message and the assistant's reply: the unit of history.

    `reason` is None while the turn runs and after a plain end; otherwise the code of the error that
    ended it, or the model's finish reason where that is not `stop`.
    """

    id: TurnId
    user_id: UserId
    conversation_id: ConversationId
    started_at: datetime
    user_message: str
    reply: str = ""
    status: TurnStatus = TurnStatus.IN_PROGRESS
    reason: str | None = None

    @property
    def exchange(self) -> Exchange:
        return Exchange(self.user_message, self.reply)

    def completed(self, reply: str, finish_reason: str) -> Self:
        """This turn after the model ended its reply of its own accord."""
        reason = None if finish_reason == "stop" else finish_reason
        return replace(self, reply=reply, status=TurnStatus.COMPLETED, reason=reason)

    def cut(self, reply: str, error: ChatError) -> Self:
        """This turn after `error` ended it, with the text that came before."""
        on_purpose = isinstance(error, Interruption)
        status = TurnStatus.INTERRUPTED if reply or on_purpose else TurnStatus.FAILED
        return replace(self, reply=reply, status=status, reason=error.code)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One of a user's conversations, in outline.

    `updated_at` is when its latest turn began; `turns` counts all of them, running and failed ones too.
    """

    user_id: UserId
    id: ConversationId
    created_at: datetime
    updated_at: datetime
    turns: int
