"""What credentials are checked against: the stored API keys, and the keys that sign tokens."""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from domain.api_key import APIKey
from domain.conversation import UserId
from domain.errors import ChatError


class Cause(StrEnum):
    """Why a credential was rejected. The values appear in logs, never in responses."""

    MALFORMED = "malformed"
    NOT_ACCEPTED = "this kind of credential is not accepted"
    UNKNOWN_KEY = "unknown API key"
    WRONG_SECRET = "wrong secret of an API key"  # noqa: S105  # no password
    EXPIRED = "expired"
    REVOKED = "revoked"
    ALGORITHM = "algorithm not allowed"
    UNKNOWN_SIGNER = "signed by an unknown key"
    SIGNATURE = "wrong signature"
    AUDIENCE = "wrong audience (aud); compare AUTH_AUDIENCE"
    ISSUER = "wrong issuer (iss); compare AUTH_ISSUER"
    CLAIMS = "missing or wrong claim"
    NOT_YET_VALID = "not yet valid"
    VALID_TOO_LONG = "valid for too long"


class InvalidCredential(Exception):
    """A credential is not valid. Holds nothing of it but the id of the API key that it names, if any."""

    def __init__(self, cause: Cause, key_id: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.key_id = key_id


class IdentityProviderUnavailable(ChatError):
    """The keys that sign tokens could not be fetched, and none are known that can still be used."""

    code = "identity_provider_unavailable"
    title = "The identity provider cannot be reached"
    retryable = True


class APIKeys(Protocol):
    """The API keys of services. A change is visible to every process from the next call on.

    Every method raises:
        HistoryUnavailable: the store failed.
    """

    @abstractmethod
    async def create(self, key: APIKey) -> None:
        """Store a new key. Its id must be new."""
        ...

    @abstractmethod
    async def find(self, key_id: str) -> APIKey | None:
        """Return the key, also if it has expired or was revoked; None if it does not exist."""
        ...

    @abstractmethod
    async def all(self) -> Sequence[APIKey]:
        """Return all keys, oldest first, also those that have expired or were revoked."""
        ...

    @abstractmethod
    async def revoke(self, key_id: str, now: datetime) -> bool:
        """Revoke a key for good, and return whether it exists. A revoked key keeps the time of its revocation."""
        ...


class Tokens(Protocol):
    """Verifying the tokens of users."""

    @abstractmethod
    async def subject(self, token: str) -> UserId:
        """Return the user that a token was issued to.

        Raises:
            InvalidCredential: the token is not valid, for any reason. Every string is checked, however malformed.
            IdentityProviderUnavailable: it cannot be checked at present.
        """
        ...
