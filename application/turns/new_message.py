"""A message that a user sends."""

from dataclasses import dataclass
from enum import StrEnum

from domain.conversation import ConversationId, UserId
from domain.principal import ANONYMOUS, Principal


class WhenBusy(StrEnum):
    """What a message does if another turn of its conversation is running."""

    WAIT = "wait"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    """Stop that turn, and run next."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message from a user.

    `keep_running` generates the reply to its end even if no reader is left. Without `use_memory`, nothing is
    recalled for the reply and the turn is not remembered.

    If the `principal` has sent this message before with the same idempotency `key`, the turn that it began then is
    returned, with its events numbered above `after`. The key may not be used for another message.
    """

    user_id: UserId
    conversation_id: ConversationId
    text: str
    keep_running: bool
    when_busy: WhenBusy = WhenBusy.WAIT
    use_memory: bool = True
    key: str | None = None
    after: int = 0
    principal: Principal = ANONYMOUS
