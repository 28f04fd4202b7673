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

    It is derived from the client's key, or else from the turn id that the client has chosen. Keys belong to a
    principal, even if several principals act for the same user. Turn ids belong to the user, as turns do.

    The same `name` with another `fingerprint` means that a client used its key for two requests.
    """

    name: str
    """SHA-256 of one of: principal, user and key; user and chosen turn id; the turn's own id.

    These have three, two and one parts, so that names of different kinds are never equal.
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
        """Return the key of a request that has a key, a turn id, or both. With both, a repetition needs both.

        `digest` is a digest of everything else that the client asked for; empty if there is nothing else.
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
        """Return the key under which a turn is stored whose request had none, but may be repeated by its library.

        The name is derived from the turn's id, so it cannot be that of any other request.
        """
        return cls(_digest(turn_id), _digest(principal.name, user_id, digest))


def _digest(*values: str | bool) -> str:
    return sha256(json.dumps(values).encode()).hexdigest()  # JSON, because joined strings would be ambiguous
