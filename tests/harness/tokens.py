"""Keys and tokens for tests, and mutations of them."""

import base64
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET: Final = "0f9a7c31e2b84d56a1b2c3d4e5f60718"
ISSUER: Final = "https://id.example"
AUDIENCE: Final = "chat"


@dataclass(frozen=True)
class FromNow:
    """A point in time, in seconds from the moment at which a token is made."""

    seconds: float


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims; a value of None removes one."""
    now = int(time.time())
    found = {"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600} | changes
    resolved = {name: now + value.seconds if isinstance(value, FromNow) else value for name, value in found.items()}
    return {name: value for name, value in resolved.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers)


def encoded(value: Any) -> str:
    """Return a segment of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """Key pairs of an identity provider, by their algorithms."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "RS256": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def token(self, algorithm: str, key_id: str | None = None, **changes: Any) -> str:
        return token(self.keys[algorithm], algorithm, {"kid": key_id or algorithm}, **changes)

    def key_set(self) -> dict[str, Any]:
        """Return the public keys, with the names of their algorithms as ids."""
        kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        public = {name: key.public_key() for name, key in self.keys.items()}
        return {"keys": [{**kinds[name].to_jwk(key, as_dict=True), "kid": name} for name, key in public.items()]}


def mutations(text: str, count: int, seed: int = 1) -> Iterator[str]:
    """Yield texts that differ from `text` in one place: a character replaced, left out, inserted, or of another case,
    neighbours swapped, or the end cut off. Deterministic."""
    dice = random.Random(seed)
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.=+/ \t\n\0%*ä"
    yielded = 0
    while yielded < count:
        place = dice.randrange(len(text))
        before, at, after = text[:place], text[place], text[place + 1 :]
        mutated = dice.choice(
            [
                before + dice.choice(alphabet) + after,
                before + after,
                before + dice.choice(alphabet) + at + after,
                before + at.swapcase() + after,
                before + after[:1] + at + after[1:],
                before,
                text + dice.choice(alphabet),
                dice.choice(alphabet) + text,
            ]
        )
        if mutated != text:
            yielded += 1
            yield mutated
