"""Authenticate: who sends a request."""

from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from application.ports.credentials import APIKeys, Cause, InvalidCredential, Tokens
from application.ports.turn_observer import AuthenticationFailed, TurnObserver
from application.throttle import Throttle
from domain.api_key import PREFIX, APIKey, PresentedKey
from domain.errors import TooManyAttempts, Unauthenticated
from domain.principal import Principal, Role

_NO_DIGEST: Final = "0" * 64
"""Compared with the presented digest if the key's id is unknown, so that the response takes as long as for a known one.
No secret has this digest."""


class Authenticate:
    """Finds the principal that a credential stands for. Nothing is cached: a revoked key is refused at once.

    `api_keys` or `tokens` is None if such credentials are not accepted. A credential that begins like an API key is
    checked as one, any other as a token.

    Failures are counted per address and per API key. Beyond the limit of `throttle`, a failure raises TooManyAttempts
    instead of Unauthenticated. A valid credential is never refused, so that failures cannot lock others out.
    """

    def __init__(
        self,
        api_keys: APIKeys | None,
        tokens: Tokens | None,
        observer: TurnObserver,
        now: Callable[[], datetime],
        throttle: Throttle | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._tokens = tokens
        self._observer = observer
        self._now = now
        self._throttle = throttle or Throttle()

    async def __call__(self, token: str, address: str) -> Principal:
        """Return who has the credential `token`. `address` is the IP address of the client that sent it.

        Raises:
            Unauthenticated: the credential is not valid, for whatever reason.
            TooManyAttempts: likewise, after too many others.
            HistoryUnavailable: API keys cannot be looked up.
            IdentityProviderUnavailable: the signature of a token cannot be checked.
        """
        try:
            if token.startswith(PREFIX):
                return await self._principal_of_key(token)
            return await self._principal_of_token(token)
        except InvalidCredential as invalid:
            failure = self._failure(invalid, address)
        raise failure  # outside, without the context

    async def _principal_of_token(self, token: str) -> Principal:
        if self._tokens is None:
            raise InvalidCredential(Cause.NOT_ACCEPTED)
        return Principal(Role.USER, await self._tokens.subject(token))

    async def _principal_of_key(self, text: str) -> Principal:
        if self._api_keys is None:
            raise InvalidCredential(Cause.NOT_ACCEPTED)
        presented = PresentedKey.parse(text)
        if presented is None:
            raise InvalidCredential(Cause.MALFORMED)
        key = await self._api_keys.find(presented.id)
        now = self._now()
        known = key or APIKey(presented.id, _NO_DIGEST, Role.SERVICE, now)
        matches = known.has_digest(presented.digest)
        if key is None:
            raise InvalidCredential(Cause.UNKNOWN_KEY, presented.id)
        if not matches:
            raise InvalidCredential(Cause.WRONG_SECRET, presented.id)
        if key.revoked_at is not None:
            raise InvalidCredential(Cause.REVOKED, presented.id)
        if key.has_expired(now):
            raise InvalidCredential(Cause.EXPIRED, presented.id)
        return Principal(key.role, key.id, key.prefix)

    def _failure(self, invalid: InvalidCredential, address: str) -> Unauthenticated | TooManyAttempts:
        names = [f"address {network_of(address)}", *([f"key {invalid.key_id}"] if invalid.key_id else [])]
        wait = max(self._throttle.fail(name) for name in names)
        self._observer.observe(AuthenticationFailed(invalid.cause, address, invalid.key_id, throttled=wait > 0))
        return TooManyAttempts(retry_after=wait) if wait else Unauthenticated()


def network_of(address: str) -> str:
    """Return the part of an address that its client cannot choose: an IPv6 client can use any address of its network.

    >>> network_of("2001:db8::42:1")
    '2001:db8::/64'
    """
    try:
        parsed = ip_address(address)
    except ValueError:  # e.g. of a Unix socket
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), 64), strict=False))
