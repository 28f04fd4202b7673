"""JSON Web Tokens of users, signed with a shared secret or by an identity provider."""

import re
import time
from typing import Any, Final, NamedTuple

import jwt
from jwt import PyJWK, exceptions

from adapters.jwks import ALGORITHMS, JWKS
from application.ports.credentials import Cause, InvalidCredential, Tokens
from domain.conversation import UserId
from domain.principal import NOBODY

MAX_BYTES: Final = 8 * 1024
LEEWAY: Final = 30
"""Seconds by which the clocks of this service and of an issuer may differ."""

MAX_LIFETIME: Final = 24 * 3600
"""Seconds for which a token may still be valid: it cannot be revoked."""

SYMMETRIC_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})

_FORMAT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Without padding, so that there is one way to write a token."""

_REQUIRED: Final = ["exp", "iat", "sub", "iss", "aud"]

_TIMES: Final = ("exp", "iat", "nbf")
"""Numbers of seconds. PyJWT also takes what Python can convert into one, e.g. `true`, `" 1 "` and `1_000`."""

_CAUSES: Final[tuple[tuple[type[Exception], Cause], ...]] = (
    (exceptions.ExpiredSignatureError, Cause.EXPIRED),
    (exceptions.ImmatureSignatureError, Cause.NOT_YET_VALID),
    (exceptions.InvalidSignatureError, Cause.SIGNATURE),
    (exceptions.InvalidKeyError, Cause.SIGNATURE),
    (exceptions.InvalidAlgorithmError, Cause.ALGORITHM),
    (exceptions.MissingRequiredClaimError, Cause.CLAIMS),
    (exceptions.InvalidAudienceError, Cause.AUDIENCE),
    (exceptions.InvalidIssuerError, Cause.ISSUER),
    (exceptions.InvalidIssuedAtError, Cause.CLAIMS),
    (exceptions.InvalidSubjectError, Cause.CLAIMS),
    (exceptions.InvalidJTIError, Cause.CLAIMS),
)


class SharedSecret(NamedTuple):
    """Signs the tokens of an issuer that knows the secret, too."""

    secret: str
    issuer: str


class KeySet(NamedTuple):
    """Verifies the tokens of an identity provider."""

    jwks: JWKS
    issuer: str


class TokensJWT(Tokens):
    """Accepts tokens for `audience` of one issuer per source of keys.

    A source verifies tokens of its own algorithms and issuer only: a public key is never used as a secret. What a
    token says about its key is ignored, except for the algorithm and the id of a key in the set.
    """

    def __init__(self, audience: str, shared_secret: SharedSecret | None, key_set: KeySet | None) -> None:
        self._audience = audience
        self._shared_secret = shared_secret
        self._key_set = key_set

    async def subject(self, token: str) -> UserId:
        if len(token) > MAX_BYTES or not _FORMAT.fullmatch(token):
            raise InvalidCredential(Cause.MALFORMED)
        header = _header_of(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str):
            raise InvalidCredential(Cause.MALFORMED)
        if self._shared_secret is not None and algorithm in SYMMETRIC_ALGORITHMS:
            secret, issuer = self._shared_secret
            return self._subject(token, secret, SYMMETRIC_ALGORITHMS, issuer)
        if self._key_set is not None and algorithm in ALGORITHMS:
            key = await self._key_set.jwks.key(key_id, algorithm)
            if key is None:
                raise InvalidCredential(Cause.UNKNOWN_SIGNER)
            return self._subject(token, key, ALGORITHMS, self._key_set.issuer)
        raise InvalidCredential(Cause.ALGORITHM)

    def _subject(self, token: str, key: str | PyJWK, algorithms: frozenset[str], issuer: str) -> UserId:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(algorithms),
                audience=self._audience,
                issuer=issuer,
                leeway=LEEWAY,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
            lifetime = int(claims["exp"]) - time.time()
        except Exception as error:  # of any kind: the token was written by anybody
            raise InvalidCredential(_cause_of(error)) from None
        if any(type(claims[name]) not in (int, float) for name in _TIMES if name in claims):
            raise InvalidCredential(Cause.CLAIMS)
        if lifetime > MAX_LIFETIME:
            raise InvalidCredential(Cause.VALID_TOO_LONG)
        try:
            user_id = UserId(claims["sub"])
        except ValueError:
            raise InvalidCredential(Cause.CLAIMS) from None
        if user_id.endswith(NOBODY):  # somebody who may choose their name would reach what belongs to nobody
            raise InvalidCredential(Cause.CLAIMS)
        return user_id


def _header_of(token: str) -> dict[str, Any]:
    """Return the header, which nothing vouches for. The id of a key in it is a string, if there is one."""
    try:
        return jwt.get_unverified_header(token)
    except Exception:
        raise InvalidCredential(Cause.MALFORMED) from None


def _cause_of(error: Exception) -> Cause:
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.MALFORMED)
