"""API keys: how a service proves who it is, and what is stored of that."""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple, Self

from domain.principal import Role

PREFIX: Final = "ck_"
"""How every API key begins. A credential that begins otherwise is not one."""

ID_BYTES: Final = 8
SECRET_BYTES: Final = 32

_FORMAT: Final = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")


class PresentedKey(NamedTuple):
    """The id and the digest of a key that a client has sent. Holds no secret."""

    id: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return None unless `text` has the format of a key, `ck_<id>_<secret>` in lower-case hexadecimal digits."""
        match = _FORMAT.fullmatch(text)
        return cls(match[1], digest_of(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class APIKey:
    """What is known about a key. Its secret is not: it has 256 random bits, so that a plain digest protects it.

    `name` is for humans. A `prefix` limits a service to users whose ids begin with it.
    """

    id: str
    digest: str
    role: Role
    created_at: datetime
    name: str = ""
    prefix: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def has_digest(self, digest: str) -> bool:
        """Compare in a time that does not depend on where the digests differ."""
        return hmac.compare_digest(self.digest, digest)

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


def digest_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def text_of(id: str, secret: str) -> str:
    """Return a key as its client sends it."""
    return f"{PREFIX}{id}_{secret}"
