"""Idempotency keys: how a repeated request is recognised, without storing anything that its client wrote."""

import json
from hashlib import sha256
from typing import Final, NamedTuple, Self

from domain.conversation import ConversationId, UserId
from domain.principal import ANONYMOUS, Principal

KEY_PATTERN: Final = r"[\x21-\x7e]{1,255}"
"""The grammar of the keys that clients choose: visible ASCII characters."""


class IdempotencyKey(NamedTuple):
    """A client's name for one request of one user, as digests: nothing that the client wrote can be read from them.

    Each principal has keys of its own, also if several act for the same user.

    The same `name` with another `fingerprint` means that a client used its key for two requests.
    """

    name: str
    """SHA-256 of the key, the principal and the user."""
    fingerprint: str
    """SHA-256 of what was asked, regardless of how the reply is delivered."""

    @classmethod
    def of(
        cls,
        key: str,
        user_id: UserId,
        conversation_id: ConversationId,
        message: str,
        *,
        use_memory: bool,
        principal: Principal = ANONYMOUS,
    ) -> Self:
        return cls(_digest(principal.name, user_id, key), _digest(user_id, conversation_id, message, use_memory))


def _digest(*values: str | bool) -> str:
    return sha256(json.dumps(values).encode()).hexdigest()  # JSON, because joined strings would be ambiguous
