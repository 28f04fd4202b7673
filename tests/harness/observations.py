"""What clients, readers and the model observed of the service, as input of the history checker.

All times are those of `time.monotonic()` of one machine, in seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    OK = "ok"
    """The service has confirmed the operation."""
    FAIL = "fail"
    """The service has refused it, or never received it: it has no effect."""
    INFO = "info"
    """Unknown: it takes effect once or never."""


@dataclass(frozen=True)
class Sent:
    """A message, sent once or, with a `key`, several times. No other message has the same text.

    `started` is when it was sent first, `ended` when its outcome was known. `reply` is what a confirmed one got.
    """

    message: str
    user_id: str
    conversation_id: str
    started: float
    ended: float = math.inf
    outcome: Outcome = Outcome.INFO
    reply: str = ""
    keyed: bool = False
    client: str = ""
    worker: str = ""


@dataclass(frozen=True)
class Deletion:
    """A deletion of one conversation, or of all turns of the user if `conversation_id` is None."""

    user_id: str
    conversation_id: str | None
    started: float
    ended: float = math.inf
    outcome: Outcome = Outcome.INFO
    worker: str = ""


class Stored(NamedTuple):
    """A turn as it was read."""

    turn_id: str
    conversation_id: str
    message: str
    reply: str
    status: str
    reason: str | None = None


@dataclass(frozen=True)
class Read:
    """All pages of a user's history, oldest turn first."""

    user_id: str
    started: float
    ended: float
    turns: Sequence[Stored]
    worker: str = ""


@dataclass(frozen=True)
class Prompt:
    """The messages that the model received in one request, as pairs of role and text."""

    received_at: float
    messages: Sequence[tuple[str, str]]

    @property
    def message(self) -> str:
        """The message that the model is to reply to."""
        return self.messages[-1][1]


@dataclass
class Observations:
    sent: list[Sent] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
