"""A message that a user sends."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from application.turns.reply_request import AS_USUAL, ReplyRequest
from domain.conversation import ConversationId, TurnId, UserId
from domain.idempotency import IdempotencyKey
from domain.principal import ANONYMOUS, Principal
from domain.resent import SentMessage


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
    returned, with its events numbered above `after`. The key may not be used for another message. The same holds for
    the `turn_id`, by which the client wants to know the turn. With both, neither may be repeated without the other.

    `reply` says how the reply is generated, and `digest` is a digest of what the client has sent along for it: a key
    cannot be used with two digests. `resent` are the earlier messages of a client that sends the whole conversation
    each time. Stored turns that are not among them are retracted. None leaves the conversation as it is.

    `repetition` is how often the client's library has sent this request before, 0 for the first time; None if the
    library does not say. A repeated request without a key gets the turn that an earlier one with the same `digest` has
    begun within the last minutes, see `REPEATED_WITHIN`. If that turn has broken off, a new one takes its place.
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
    turn_id: TurnId | None = None
    reply: ReplyRequest = AS_USUAL
    digest: str = ""
    resent: Sequence[SentMessage] | None = None
    repetition: int | None = None

    @property
    def idempotency_key(self) -> IdempotencyKey | None:
        """The name of this request; None if it cannot be repeated."""
        if self.key is None and self.turn_id is None:
            return None
        return IdempotencyKey.of(
            self.key,
            self.user_id,
            self.conversation_id,
            self.text,
            use_memory=self.use_memory,
            principal=self.principal,
            turn_id=self.turn_id,
            digest=self.digest,
        )
