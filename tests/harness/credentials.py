"""A stand-in for `Authenticate`: a fixed table of credentials, so that tests need neither keys nor tokens."""

from collections.abc import Mapping
from typing import Any, Final

from domain.errors import Unauthenticated
from domain.principal import Principal, Role
from tests.harness.tokens import AUDIENCE, ISSUER, SECRET

ANN: Final = Principal(Role.USER, "ann")
BEN: Final = Principal(Role.USER, "ben")
SERVICE: Final = Principal(Role.SERVICE, "key1")
TENANT: Final = Principal(Role.SERVICE, "key2", "a")
"""A service for the users whose id begins with `a`, e.g. Ann but not Ben."""
ADMIN: Final = Principal(Role.ADMIN, "key3")

CREDENTIALS: Final[Mapping[str, Principal]] = {
    "ann-token": ANN,
    "ben-token": BEN,
    "ck_key1_secret": SERVICE,
    "ck_key2_secret": TENANT,
    "ck_key3_secret": ADMIN,
}


def authentication(auth_mode: str = "jwt") -> dict[str, Any]:
    """Return complete settings for a mode."""
    tokens = {"auth_jwt_secret": SECRET, "auth_issuer": ISSUER, "auth_audience": AUDIENCE}
    return {"auth_mode": auth_mode, **(tokens if "jwt" in auth_mode else {})}


class KnownCredentials:
    """Knows the principals of these credentials; `addresses` are those that the attempts came from."""

    def __init__(self, credentials: Mapping[str, Principal] = CREDENTIALS) -> None:
        self.credentials = dict(credentials)
        self.addresses: list[str] = []

    async def __call__(self, token: str, address: str) -> Principal:
        self.addresses.append(address)
        if token not in self.credentials:
            raise Unauthenticated
        return self.credentials[token]


def credential_of(principal: Principal) -> str:
    """Return the credential of a principal."""
    return next(credential for credential, found in CREDENTIALS.items() if found == principal)


def bearer(principal: Principal) -> dict[str, str]:
    """Return the header with the credential of a principal."""
    return {"Authorization": f"Bearer {credential_of(principal)}"}
