"""The keys of an identity provider: fetched when needed, kept for a while, and used while it is down."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm

from adapters.jwks import JWKS
from adapters.tokens_jwt import KeySet, TokensJWT
from application.ports.credentials import Cause, IdentityProviderUnavailable, InvalidCredential
from application.ports.turn_observer import Event, SigningKeysNotFetched, TurnObserver
from tests.harness.raw_server import Call, RawServer
from tests.harness.tokens import AUDIENCE, ISSUER, SECRET, Signer, encoded

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


class Recorder(TurnObserver):
    def __init__(self) -> None:
        self.failures: list[SigningKeysNotFetched] = []

    def observe(self, event: Event) -> None:
        assert isinstance(event, SigningKeysNotFetched)
        self.failures.append(event)


class Provider:
    """An identity provider whose response can be changed. `requests` are the heads of those that it received."""

    def __init__(self, key_set: Any) -> None:
        self.key_set = key_set
        self.response: bytes | None = None
        """Sent instead of the key set."""
        self.hangs = False
        self.requests: list[bytes] = []
        self.time = 1_000.0
        self.observer = Recorder()

    async def __call__(self, call: Call) -> None:
        self.requests.append(await call.head())
        if self.hangs:
            await call.left()
            return
        body = json.dumps(self.key_set).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        await call.send(self.response or head + body)

    @asynccontextmanager
    async def jwks(self, **changes: Any) -> AsyncIterator[JWKS]:
        async with RawServer(self) as server:
            yield JWKS(f"{server.url}/keys", self.observer, clock=lambda: self.time, **changes)


@pytest.fixture
def provider(signer: Signer) -> Provider:
    return Provider(signer.key_set())


async def ids(jwks: JWKS, *names: str | None) -> list[str | None]:
    """Return the names for which there is a key."""
    return [name for name in names if await jwks.key(name) is not None]


async def test_tokens_of_the_provider_are_accepted_with_one_fetch(provider: Provider, signer: Signer) -> None:
    async with provider.jwks() as jwks:
        tokens = TokensJWT(AUDIENCE, None, KeySet(jwks, ISSUER))
        texts = [signer.token(algorithm) for algorithm in ("RS256", "ES256", "EdDSA")]

        assert await asyncio.gather(*map(tokens.subject, texts)) == ["ann"] * 3
        assert [await tokens.subject(text) for text in texts] == ["ann"] * 3

    assert len(provider.requests) == 1
    assert provider.requests[0].startswith(b"GET /keys HTTP/1.1")


async def test_keys_are_fetched_again_after_five_minutes(provider: Provider) -> None:
    async with provider.jwks() as jwks:
        await jwks.key("RS256")
        provider.key_set = {"keys": [key for key in provider.key_set["keys"] if key["kid"] != "RS256"]}

        provider.time += 299
        assert await ids(jwks, "RS256", "ES256") == ["RS256", "ES256"]
        provider.time += 1
        assert await ids(jwks, "RS256", "ES256") == ["ES256"]

    assert len(provider.requests) == 2


async def test_an_unknown_id_causes_a_fetch_at_most_each_30_seconds(provider: Provider) -> None:
    everything = provider.key_set["keys"]
    provider.key_set = {"keys": everything[:1]}
    async with provider.jwks() as jwks:
        assert await ids(jwks, "RS256", "ES256") == ["RS256"]
        provider.key_set = {"keys": everything}
        provider.time += 29
        for number in range(50):
            assert await ids(jwks, "ES256", f"none {number}") == []
        assert len(provider.requests) == 1

        provider.time += 1
        assert await ids(jwks, "ES256", "none") == ["ES256"]

    assert len(provider.requests) == 2


async def test_an_id_that_was_not_in_a_fetched_set_causes_no_other_fetch(provider: Provider) -> None:
    async with provider.jwks() as jwks:
        await jwks.key("RS256")
        for _ in range(5):
            provider.time += 40
            assert await jwks.key("none") is None
        assert len(provider.requests) == 2


async def test_the_memory_of_unknown_ids_is_bounded(provider: Provider) -> None:
    async with provider.jwks(max_unknown=2, max_age=1e9, max_stale=1e9) as jwks:
        await jwks.key("RS256")
        for name in ("a", "b", "c"):
            provider.time += 40
            await jwks.key(name)
        provider.time += 40
        await jwks.key("c")
        assert len(provider.requests) == 4
        await jwks.key("a")
        assert len(provider.requests) == 5


async def test_known_keys_are_used_for_a_day_while_the_provider_is_down(provider: Provider) -> None:
    async with provider.jwks() as jwks:
        await jwks.key("RS256")
        provider.response = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"

        provider.time += 24 * 3600 - 1
        assert await ids(jwks, "RS256") == ["RS256"]
        provider.time += 1
        with pytest.raises(IdentityProviderUnavailable):
            await jwks.key("RS256")

        provider.response = None
        provider.time += 2
        assert await ids(jwks, "RS256") == ["RS256"]

    ages = [failure.stale_for for failure in provider.observer.failures]
    assert len(provider.requests) == 1 + len(ages) + 1
    assert all("responded with status 500" in failure.explanation for failure in provider.observer.failures)


async def test_when_all_keys_are_withdrawn_none_is_used_any_more(provider: Provider) -> None:
    published = provider.key_set["keys"]
    async with provider.jwks() as jwks:
        await jwks.key("RS256")
        provider.key_set = {"keys": [{**key, "use": "enc"} for key in published]}
        provider.time += 300
        for _ in range(2):
            with pytest.raises(IdentityProviderUnavailable):
                await jwks.key("RS256")
            provider.time += 1

        provider.key_set = {"keys": published}
        assert await ids(jwks, "RS256") == ["RS256"]

    assert [failure.stale_for for failure in provider.observer.failures] == [None, None]


@pytest.mark.parametrize("members", [{}, "none", None])
async def test_keys_remain_known_when_the_response_is_no_key_set(provider: Provider, members: Any) -> None:
    async with provider.jwks() as jwks:
        await jwks.key("RS256")
        provider.key_set = {"keys": members}
        provider.time += 300
        assert await ids(jwks, "RS256") == ["RS256"]


async def test_no_request_waits_for_a_provider_that_has_failed_while_keys_are_known(provider: Provider) -> None:
    async with provider.jwks(timeout=0.5) as jwks:
        await jwks.key("RS256")
        provider.hangs = True
        provider.time += 300
        assert await ids(jwks, "RS256") == ["RS256"]  # waits for the fetch, once
        assert len(provider.observer.failures) == 1

        provider.time += 30
        async with asyncio.timeout(0):
            assert await ids(jwks, "RS256") == ["RS256"]
        while len(provider.observer.failures) < 2:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xfe\xfd\xfc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\":",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b" " * 100_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1000\r\n" + b"[" * 0x1000 + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",
        b"nonsense\r\n\r\n",
        b"\0",
    ],
    ids=range(12),
)  # fmt: skip
async def test_a_response_that_is_no_key_set_gives_no_keys(provider: Provider, response: bytes) -> None:
    provider.response = response
    async with provider.jwks() as jwks:
        with pytest.raises(IdentityProviderUnavailable):
            await jwks.key("RS256")

    assert len(provider.requests) == 1
    [failure] = provider.observer.failures
    assert failure.explanation.startswith("The keys at localhost:")
    assert failure.stale_for is None


@pytest.mark.parametrize(("size", "usable"), [(64 * 1024, True), (64 * 1024 + 1, False)])
async def test_a_key_set_has_at_most_64_kilobytes(provider: Provider, size: int, usable: bool) -> None:
    body = json.dumps(provider.key_set).encode().ljust(size)
    provider.response = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + body
    async with provider.jwks() as jwks:
        try:
            assert (await jwks.key("RS256") is not None) == usable
        except IdentityProviderUnavailable:
            assert not usable


async def test_a_provider_that_does_not_respond_is_given_up(provider: Provider) -> None:
    provider.hangs = True
    async with provider.jwks(timeout=0.5) as jwks:
        with pytest.raises(IdentityProviderUnavailable):
            await jwks.key("RS256")

    assert "did not respond within 0.5 seconds" in provider.observer.failures[0].explanation


async def test_a_provider_that_nobody_listens_for_is_given_up() -> None:
    observer = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    jwks = JWKS(f"http://127.0.0.1:{port}/keys", observer)
    with pytest.raises(IdentityProviderUnavailable):
        await jwks.key("RS256")

    assert "[Errno 111]" in observer.failures[0].explanation


async def test_a_provider_that_does_not_respond_is_asked_once_a_second_at_most(provider: Provider) -> None:
    provider.response = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
    async with provider.jwks() as jwks:
        for step in (0, 0, 0.5, 0.5, 0.5):
            provider.time += step
            with pytest.raises(IdentityProviderUnavailable):
                await jwks.key("RS256")

    assert len(provider.requests) == 2


async def test_keys_of_different_types_may_have_the_same_id(provider: Provider, signer: Signer) -> None:
    for keys in (signer.key_set()["keys"], signer.key_set()["keys"][::-1]):
        provider.key_set = {"keys": [{**key, "kid": "same", "use": None} for key in keys]}
        async with provider.jwks() as jwks:
            tokens = TokensJWT(AUDIENCE, None, KeySet(jwks, ISSUER))
            users = [await tokens.subject(signer.token(name, "same")) for name in ("RS256", "ES256", "EdDSA")]
            assert users == ["ann"] * 3


async def test_keys_that_must_not_verify_tokens_are_left_out(provider: Provider, signer: Signer) -> None:
    rsa, ec, okp = signer.key_set()["keys"]
    secret = {"kty": "oct", "k": encoded(SECRET.encode()), "kid": "oct", "alg": "HS256"}
    provider.key_set = {
        "keys": [
            {**rsa, "use": "enc"},
            {**ec, "crv": "P-999"},
            {**rsa, "kid": "RSA-OAEP", "alg": "RSA-OAEP"},
            {**rsa, "kid": "RS-as-HS", "alg": "HS256"},
            {**rsa, "kid": 7},
            {**ec, "kid": "no point", "x": "AA"},
            {**RSAAlgorithm.to_jwk(signer.keys["RS256"], as_dict=True), "kid": "private"},
            secret,
            "text",
            None,
            okp,
        ]
    }
    async with provider.jwks() as jwks:
        names = ["RS256", "ES256", "RSA-OAEP", "RS-as-HS", "7", "no point", "private", "oct", None, "EdDSA"]
        assert await ids(jwks, *names) == [None, "EdDSA"]  # a single key needs no id
        tokens = TokensJWT(AUDIENCE, None, KeySet(jwks, ISSUER))
        with pytest.raises(InvalidCredential, match=Cause.UNKNOWN_SIGNER):
            await tokens.subject(signer.token("RS256"))


async def test_a_cancelled_request_does_not_end_the_fetch_for_others(provider: Provider) -> None:
    async with provider.jwks() as jwks:
        first, second = asyncio.create_task(jwks.key("RS256")), asyncio.create_task(jwks.key("RS256"))
        await asyncio.sleep(0)
        first.cancel()

        assert await second is not None
        assert first.cancelled()

    assert len(provider.requests) == 1
