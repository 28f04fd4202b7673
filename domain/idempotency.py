"""Idempotency keys: how a repeated request is recognised, without storing anything that its client wrote."""

import json
from hashlib import sha256
from typing import Final, NamedTuple, Self

from domain.conversation import ConversationId, TurnId, UserId
from domain.principal import ANONYMOUS, Principal

KEY_PATTERN: Final = r"[\x21-\x7e]{1,255}"
"""The grammar of the keys that clients choose: visible ASCII characters."""


class IdempotencyKey(NamedTuple):
    """A client's name for one request of one user, as digests: nothing that the client wrote can be read from them.

    It is made of the client's key, or else of the turn id that it has chosen. Each principal has keys of its own, also
    if several act for the same user. Turn ids belong to the user, as turns do.

    The same `name` with another `fingerprint` means that a client used its key for two requests.
    """

    name: str
    """SHA-256 of the key, the principal and the user, or of the chosen turn id and the user, or of a turn's own id.

    These have a different number of parts, so that no user id makes one the other.
    """
    fingerprint: str
    """SHA-256 of what was asked, regardless of how the reply is delivered."""

    @classmethod
    def of(
        cls,
        key: str | None,
        user_id: UserId,
        conversation_id: ConversationId,
        message: str,
        *,
        use_memory: bool,
        principal: Principal = ANONYMOUS,
        turn_id: TurnId | None = None,
        digest: str = "",
    ) -> Self:
        """Return the key of a request that has a key, a turn id, or both: then both have to be repeated.

        `digest` stands for everything else that was asked, if there is more.
        """
        asked: tuple[str | bool, ...] = (user_id, conversation_id, message, use_memory)
        if digest:
            asked = (*asked, digest)
        if key is None:
            assert turn_id is not None, "the request has a key or a turn id"
            return cls(_digest(user_id, turn_id), _digest(*asked))
        name = _digest(principal.name, user_id, key)
        return cls(name, _digest(*asked) if turn_id is None else _digest(*asked, turn_id))

    @classmethod
    def of_turn(cls, turn_id: TurnId, principal: Principal, user_id: UserId, digest: str) -> Self:
        """Return the key of a turn that was begun by a request without a key, which its client may repeat.

        It is found by the turn, so that nobody else's and no other request has it by chance.
        """
        return cls(_digest(turn_id), _digest(principal.name, user_id, digest))


def _digest(*values: str | bool) -> str:
    return sha256(json.dumps(values).encode()).hexdigest()  # JSON, because joined strings would be ambiguous
