"""Who has a credential, and what happens to those that are not valid."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from application.authentication import Authenticate, network_of
from application.ports.credentials import Cause, InvalidCredential, Tokens
from application.ports.history import HistoryUnavailable
from application.ports.turn_observer import AuthenticationFailed, Event, TurnObserver
from application.throttle import Throttle
from domain.api_key import APIKey, PresentedKey, digest_of, text_of
from domain.conversation import UserId
from domain.errors import ChatError, TooManyAttempts, Unauthenticated
from domain.principal import Principal, Role
from tests.harness.api_keys_in_memory import APIKeysInMemory
from tests.harness.tokens import mutations

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "0123456789abcdef" * 4
SERVICE = APIKey("00000000000000aa", digest_of(SECRET), Role.SERVICE, NOW, prefix="acme:")
ADMIN = APIKey("00000000000000bb", digest_of(SECRET[::-1]), Role.ADMIN, NOW)
KEY = text_of(SERVICE.id, SECRET)
ADDRESS = "192.0.2.1"


class TokensOfAnn(Tokens):
    """Accepts one token."""

    async def subject(self, token: str) -> UserId:
        if token != "token":
            raise InvalidCredential(Cause.SIGNATURE)
        return UserId("ann")


class Recorder(TurnObserver):
    def __init__(self) -> None:
        self.events: list[AuthenticationFailed] = []

    def observe(self, event: Event) -> None:
        assert isinstance(event, AuthenticationFailed)
        self.events.append(event)


class Door:
    """Authenticate on a store of keys in memory, with a clock that stands still."""

    def __init__(self, *, has_keys: bool = True, has_tokens: bool = True) -> None:
        self.keys = APIKeysInMemory()
        self.observer = Recorder()
        self.now = NOW
        tokens = TokensOfAnn() if has_tokens else None
        throttle = Throttle(period=60)
        self.authenticate = Authenticate(
            self.keys if has_keys else None, tokens, self.observer, lambda: self.now, throttle
        )

    async def try_(self, credential: str, address: str = ADDRESS) -> Principal | type[ChatError]:
        try:
            return await self.authenticate(credential, address)
        except ChatError as error:
            return type(error)

    @property
    def causes(self) -> list[Cause]:
        return [event.cause for event in self.observer.events]


@pytest.fixture
async def door() -> Door:
    door = Door()
    for key in (SERVICE, ADMIN):
        await door.keys.create(key)
    return door


async def test_an_api_key_is_a_principal_with_its_role_and_prefix(door: Door) -> None:
    assert await door.authenticate(KEY, ADDRESS) == Principal(Role.SERVICE, SERVICE.id, "acme:")
    assert await door.authenticate(text_of(ADMIN.id, SECRET[::-1]), ADDRESS) == Principal(Role.ADMIN, ADMIN.id)


async def test_a_token_is_its_user(door: Door) -> None:
    assert await door.authenticate("token", ADDRESS) == Principal(Role.USER, "ann")


@pytest.mark.parametrize(
    ("credential", "cause"),
    [
        ("", Cause.SIGNATURE),
        ("ck_", Cause.MALFORMED),
        ("ck_token", Cause.MALFORMED),
        (KEY.upper(), Cause.SIGNATURE),
        (KEY + "\n", Cause.MALFORMED),
        (text_of(ADMIN.id, SECRET), Cause.WRONG_SECRET),
        (text_of("00000000000000cc", SECRET), Cause.UNKNOWN_KEY),
        (text_of("00000000000000cc", "0" * 64), Cause.UNKNOWN_KEY),
    ],
)
async def test_other_credentials_are_refused_alike(door: Door, credential: str, cause: Cause) -> None:
    assert await door.try_(credential) is Unauthenticated
    assert door.causes == [cause]


async def test_two_keys_of_a_service_are_valid_at_once_until_the_first_is_revoked(door: Door) -> None:
    second = APIKey("00000000000000dd", digest_of("d" * 64), Role.SERVICE, NOW, name=SERVICE.name)
    await door.keys.create(second)
    both = [KEY, text_of(second.id, "d" * 64)]
    assert [isinstance(await door.try_(key), Principal) for key in both] == [True, True]

    await door.keys.revoke(SERVICE.id, NOW)

    assert [isinstance(await door.try_(key), Principal) for key in both] == [False, True]
    assert door.causes == [Cause.REVOKED]


async def test_a_key_expires(door: Door) -> None:
    await door.keys.create(
        APIKey("00000000000000ee", digest_of(SECRET), Role.SERVICE, NOW, expires_at=NOW + timedelta(days=1))
    )
    key = text_of("00000000000000ee", SECRET)
    door.now = NOW + timedelta(days=1, microseconds=-1)
    assert isinstance(await door.try_(key), Principal)

    door.now = NOW + timedelta(days=1)

    assert await door.try_(key) is Unauthenticated
    assert door.causes == [Cause.EXPIRED]


@pytest.mark.parametrize(("credential", "door"), [(KEY, Door(has_keys=False)), ("token", Door(has_tokens=False))])
async def test_a_kind_of_credential_that_is_not_configured_is_refused(credential: str, door: Door) -> None:
    assert await door.try_(credential) is Unauthenticated
    assert door.causes == [Cause.NOT_ACCEPTED]


async def test_no_mutated_key_is_accepted(door: Door) -> None:
    tried = list(mutations(KEY, 200))

    outcomes = [await door.try_(key, f"192.0.2.{number}") for number, key in enumerate(tried)]

    assert len(tried) == 200
    assert [outcome for outcome in outcomes if isinstance(outcome, Principal)] == []


async def test_a_store_of_keys_that_fails_is_not_a_wrong_key() -> None:
    class BrokenKeys(APIKeysInMemory):
        async def find(self, key_id: str) -> APIKey | None:
            raise HistoryUnavailable

    observer = Recorder()
    authenticate = Authenticate(BrokenKeys(), None, observer, lambda: NOW)
    for credential in (KEY, text_of("00000000000000cc", SECRET)):
        with pytest.raises(HistoryUnavailable):
            await authenticate(credential, ADDRESS)
    assert observer.events == []


async def test_failures_of_an_address_are_limited_but_valid_credentials_pass(door: Door) -> None:
    outcomes = [await door.try_(f"wrong {number}") for number in range(12)]

    assert outcomes == [Unauthenticated] * 10 + [TooManyAttempts] * 2
    assert await door.try_(KEY) == Principal(Role.SERVICE, SERVICE.id, "acme:")
    assert await door.try_("token") == Principal(Role.USER, "ann")
    assert await door.try_("wrong", "192.0.2.2") is Unauthenticated


async def test_failures_with_the_id_of_a_key_are_limited_whatever_the_address(door: Door) -> None:
    wrong = text_of(SERVICE.id, "0" * 64)

    outcomes = [await door.try_(wrong, f"192.0.2.{number}") for number in range(12)]

    assert outcomes == [Unauthenticated] * 10 + [TooManyAttempts] * 2
    assert await door.try_(KEY, "192.0.2.99") == Principal(Role.SERVICE, SERVICE.id, "acme:")


async def test_who_is_throttled_is_told_how_long(door: Door) -> None:
    for _ in range(10):
        await door.try_("wrong")

    with pytest.raises(TooManyAttempts) as refused:
        await door.authenticate("wrong", ADDRESS)

    assert refused.value.retry_after is not None
    assert 55 <= refused.value.retry_after <= 60


async def test_an_address_may_fail_again_after_a_while() -> None:
    throttle = Throttle(limit=2, period=0.05)
    assert [throttle.fail("a") > 0 for _ in range(4)] == [False, False, True, True]

    await anyio.sleep(0.1)

    assert throttle.fail("a") == 0


async def test_the_memory_of_failures_is_bounded() -> None:
    throttle = Throttle(limit=1, max_names=3)
    for name in ("a", "b", "c", "d"):
        assert throttle.fail(name) == 0

    assert [throttle.fail(name) > 0 for name in ("d", "a")] == [True, False]


async def test_the_log_gets_the_cause_without_the_credential(door: Door) -> None:
    await door.try_(text_of(SERVICE.id, "0" * 64))

    assert door.observer.events == [AuthenticationFailed(Cause.WRONG_SECRET, ADDRESS, SERVICE.id, throttled=False)]


async def test_an_error_has_no_context_that_could_hold_the_credential(door: Door) -> None:
    for credential in ("wrong", KEY[:-1] + "0"):
        with pytest.raises(Unauthenticated) as refused:
            await door.authenticate(credential, ADDRESS)
        assert refused.value.__context__ is None
        assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_addresses_of_one_network_are_throttled_together(address: str, network: str) -> None:
    assert network_of(address) == network


def test_the_text_of_a_presented_key_is_not_kept() -> None:
    presented = PresentedKey.parse(KEY)

    assert presented == (SERVICE.id, SERVICE.digest)
    assert SECRET not in repr(presented)
