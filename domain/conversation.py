"""Users, conversations, messages and turns, and how a turn ends."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, NewType, Self

from domain.errors import (
    Cancelled,
    ChatError,
    ClientDisconnected,
    Interruption,
    ServerShuttingDown,
    Superseded,
    TurnNotFound,
)

MAX_ID_CHARS: Final = 128

ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:@|+=~-]{0,127}"
"""The grammar of ids that clients choose.

It covers UUIDs, e-mail addresses and `auth0|…`. It excludes characters that would make data unreachable in a URL
(`/`, `%`, white space) or that a store could read as a wildcard (`*`).
"""

_ID = re.compile(ID_PATTERN)


class _Id(str):
    """A string that matches ID_PATTERN; any other raises `ValueError`."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _ID.fullmatch(value):
            raise ValueError(
                "must be 1 to 128 characters, start with an ASCII letter or digit, "
                "and contain only letters, digits and . _ : @ | + = ~ -"
            )
        return super().__new__(cls, value)


class UserId(_Id):
    """The owner of conversations and memories."""

    __slots__ = ()


class ConversationId(_Id):
    """One of a user's conversations. Unique only within that user."""

    __slots__ = ()


DEFAULT_CONVERSATION: Final = ConversationId("default")

TurnId = NewType("TurnId", str)
"""A turn's id: a lower-case UUID. Unique across users, unless a client has chosen it: then unique within its user."""

TURN_ID_PATTERN: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""The grammar of turn ids, also of those that clients choose."""

_TURN_ID: Final = re.compile(TURN_ID_PATTERN)


def parse_turn_id(text: str) -> TurnId:
    """Return `text` as an id.

    Raises:
        TurnNotFound: it is malformed, so no turn can have it. PostgreSQL fails if it is asked for an id with U+0000.
    """
    if not _TURN_ID.fullmatch(text):
        raise TurnNotFound
    return TurnId(text)


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the prompt sent to the model."""

    role: Role
    text: str


class Exchange(NamedTuple):
    """The text of a turn: the user's message and the reply."""

    user_message: str
    reply: str


class TurnStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    """The model finished. `Turn.reason` says why it stopped, e.g. `length`, unless it simply stopped."""
    FAILED = "failed"
    """An error ended the turn before any text."""
    INTERRUPTED = "interrupted"
    """Cut off after some text, or ended deliberately: by its client, a stop request or a shutdown."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a turn consumed.

    As reported by the provider, or, with `estimated`, derived from the text because the provider reported none.
    """

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's message and the assistant's reply: the unit of history.

    `reason` is None while the turn runs and after a normal end. Otherwise it is the code of the error that ended the
    turn, or the model's finish reason if that is not `stop`. `usage` is None until the model has answered.

    `id` names the turn inside the service. If the client has chosen an id, it knows the turn by that one only.
    """

    id: TurnId
    user_id: UserId
    conversation_id: ConversationId
    started_at: datetime
    user_message: str
    reply: str = ""
    status: TurnStatus = TurnStatus.IN_PROGRESS
    reason: str | None = None
    usage: Usage | None = None
    chosen_id: TurnId | None = None
    """The id that the client has chosen. Another user's turn may have the same, and so may a turn that runs again."""

    @property
    def public_id(self) -> TurnId:
        """The id by which clients know the turn."""
        return self.chosen_id or self.id

    @property
    def is_replaceable(self) -> bool:
        """Whether a request that is repeated with its idempotency key runs again, and its turn takes this one's place.

        The turn has no text, and its end was not its client's wish.
        """
        if self.status is TurnStatus.INTERRUPTED:
            return not self.reply and self.reason == ServerShuttingDown.code
        return self.status is TurnStatus.FAILED

    @property
    def has_broken_off(self) -> bool:
        """Whether an error, a shutdown or the death of its worker ended the turn, before or within the reply."""
        is_wanted = self.reason in (Cancelled.code, ClientDisconnected.code, Superseded.code)
        return self.status is TurnStatus.FAILED or (self.status is TurnStatus.INTERRUPTED and not is_wanted)

    @property
    def exchange(self) -> Exchange:
        return Exchange(self.user_message, self.reply)

    def completed(self, reply: str, finish_reason: str, usage: Usage | None = None) -> Self:
        """Return this turn with the model's finished reply."""
        reason = None if finish_reason == "stop" else finish_reason
        return replace(self, reply=reply, status=TurnStatus.COMPLETED, reason=reason, usage=usage)

    def ended_by(self, error: ChatError, reply: str = "", usage: Usage | None = None) -> Self:
        """Return this turn as ended by `error`, with the text generated before it."""
        interrupted = reply or isinstance(error, Interruption)
        status = TurnStatus.INTERRUPTED if interrupted else TurnStatus.FAILED
        return replace(self, reply=reply, status=status, reason=error.code, usage=usage)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Summary of one conversation.

    `created_at` is the start of its first turn, even if that was retracted, and `updated_at` of its latest. `turns`
    counts the turns that are not retracted, including running and failed ones. `title` was set by the user, or else
    comes from the first message that was not retracted.
    """

    user_id: UserId
    id: ConversationId
    created_at: datetime
    updated_at: datetime
    turns: int
    title: str
