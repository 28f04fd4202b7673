"""Tokens are accepted if they are signed by the configured issuer for this service, and in no other case."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from adapters.jwks import JWKS
from adapters.tokens_jwt import KeySet, SharedSecret, TokensJWT
from application.ports.credentials import Cause, InvalidCredential
from application.ports.turn_observer import Event, TurnObserver
from domain.principal import NOBODY
from tests.harness.tokens import AUDIENCE, ISSUER, SECRET, FromNow, Signer, claims, encoded, mutations, token

OTHER_ISSUER = "https://other.example"
DEEP = "[" * 2_000 + "]" * 2_000


class NoObserver(TurnObserver):
    def observe(self, event: Event) -> None:
        raise AssertionError(event)


class KnownKeys(JWKS):
    """A key set that has been fetched already."""

    def __init__(self, signer: Signer) -> None:
        super().__init__("https://id.example/keys", NoObserver())
        self._known = {member["kid"]: PyJWK(member) for member in signer.key_set()["keys"]}

    async def key(self, key_id: str | None, algorithm: str = "") -> PyJWK | None:
        return self._known.get(key_id or "")


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def tokens() -> TokensJWT:
    return TokensJWT(AUDIENCE, SharedSecret(SECRET, ISSUER), None)


@pytest.fixture
def both(signer: Signer) -> TokensJWT:
    return TokensJWT(AUDIENCE, SharedSecret(SECRET, ISSUER), KeySet(KnownKeys(signer), OTHER_ISSUER))


async def cause_of(tokens: TokensJWT, text: str) -> Cause | str:
    """Return why a token is rejected, or whose it is."""
    try:
        return await tokens.subject(text)
    except InvalidCredential as invalid:
        return invalid.cause


async def test_a_valid_token_names_its_user(tokens: TokensJWT) -> None:
    assert await tokens.subject(token()) == "ann"


@pytest.mark.parametrize("prefix", ["", "acme-"])
async def test_no_token_is_that_of_the_user_to_whom_unnamed_requests_belong(tokens: TokensJWT, prefix: str) -> None:
    assert await cause_of(tokens, token(sub=prefix + NOBODY)) == Cause.CLAIMS


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"},
        {"aud": ["other", AUDIENCE]},
        {"exp": FromNow(-20)},
        {"iat": FromNow(25)},
        {"nbf": FromNow(25)},
        {"exp": FromNow(24 * 3600 - 5)},
        {"iat": FromNow(-0.5), "exp": FromNow(60.5)},
        {"role": "admin", "jti": "1", "user_id": "ben"},
    ],
)
async def test_variants_of_valid_tokens_are_accepted(tokens: TokensJWT, changes: dict[str, Any]) -> None:
    assert await tokens.subject(token(**changes)) == changes.get("sub", "ann")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"exp": None}, Cause.CLAIMS),
        ({"iat": None}, Cause.CLAIMS),
        ({"sub": None}, Cause.CLAIMS),
        ({"iss": None}, Cause.CLAIMS),
        ({"aud": None}, Cause.CLAIMS),
        ({"sub": ""}, Cause.CLAIMS),
        ({"sub": "*"}, Cause.CLAIMS),
        ({"sub": "ann\n"}, Cause.CLAIMS),
        ({"sub": "a/b"}, Cause.CLAIMS),
        ({"sub": "a" * 129}, Cause.CLAIMS),
        ({"sub": 7}, Cause.CLAIMS),
        ({"sub": ["ann"]}, Cause.CLAIMS),
        ({"iss": "https://evil.example"}, Cause.ISSUER),
        ({"iss": ISSUER + "/"}, Cause.ISSUER),
        ({"iss": OTHER_ISSUER}, Cause.ISSUER),
        ({"aud": "other"}, Cause.AUDIENCE),
        ({"aud": AUDIENCE + "2"}, Cause.AUDIENCE),
        ({"aud": [AUDIENCE, 7]}, Cause.AUDIENCE),
        ({"aud": []}, Cause.CLAIMS),
        ({"exp": FromNow(-40)}, Cause.EXPIRED),
        ({"exp": True}, Cause.EXPIRED),
        ({"exp": 0}, Cause.EXPIRED),
        ({"exp": "soon"}, Cause.MALFORMED),
        ({"exp": float("inf")}, Cause.MALFORMED),
        ({"exp": float("nan")}, Cause.MALFORMED),
        ({"exp": [1]}, Cause.MALFORMED),
        ({"exp": FromNow(24 * 3600 + 60)}, Cause.VALID_TOO_LONG),
        ({"exp": 10**30}, Cause.VALID_TOO_LONG),
        ({"iat": FromNow(120)}, Cause.NOT_YET_VALID),
        ({"nbf": FromNow(120)}, Cause.NOT_YET_VALID),
        ({"iat": {}}, Cause.CLAIMS),
        ({"exp": "4102444800"}, Cause.CLAIMS),
        ({"exp": " 4_102_444_800 "}, Cause.CLAIMS),
        ({"iat": True}, Cause.CLAIMS),
        ({"iat": "1"}, Cause.CLAIMS),
        ({"nbf": "1"}, Cause.CLAIMS),
        ({"nbf": False}, Cause.CLAIMS),
        ({"nbf": "x"}, Cause.MALFORMED),
        ({"jti": 7}, Cause.CLAIMS),
    ],
    ids=str,
)
async def test_a_token_with_a_wrong_claim_is_rejected(tokens: TokensJWT, changes: dict[str, Any], cause: Cause) -> None:
    payload = encoded(claims(**changes))  # not by PyJWT, which refuses to write some of them
    header = encoded({"alg": "HS256", "typ": "JWT"})
    assert await cause_of(tokens, signed(header, payload)) == cause


def signed(header: str, payload: str, secret: str = SECRET) -> str:
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{header}.{payload}.{encoded(algorithm.sign(f'{header}.{payload}'.encode(), secret.encode()))}"


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ({"alg": "none"}, Cause.ALGORITHM),
        ({"alg": "None"}, Cause.ALGORITHM),
        ({"alg": "hs256"}, Cause.ALGORITHM),
        ({"alg": "RS256"}, Cause.ALGORITHM),
        ({"alg": "HS384"}, Cause.SIGNATURE),
        ({"alg": ["HS256"]}, Cause.MALFORMED),
        ({"alg": None}, Cause.MALFORMED),
        ({}, Cause.MALFORMED),
        ([], Cause.MALFORMED),
        ({"alg": "HS256", "crit": ["exp"], "exp": 1}, Cause.MALFORMED),
        ({"alg": "HS256", "crit": []}, Cause.MALFORMED),
        ({"alg": "HS256", "b64": False, "crit": ["b64"]}, Cause.MALFORMED),
        ({"alg": "HS256", "kid": {}}, Cause.MALFORMED),
    ],
    ids=str,
)
async def test_a_token_with_another_header_is_rejected(tokens: TokensJWT, header: Any, cause: Cause) -> None:
    assert await cause_of(tokens, signed(encoded(header), encoded(claims()))) == cause


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
async def test_what_a_token_says_about_its_key_is_ignored(both: TokensJWT, signer: Signer, name: str) -> None:
    mine = rsa.generate_private_key(65537, 2048)
    value: Any = signer.key_set()["keys"][0] if name == "jwk" else "https://evil.example/keys"
    headers = {"kid": "RS256", name: value}

    assert await cause_of(both, token(mine, "RS256", headers, iss=OTHER_ISSUER)) == Cause.SIGNATURE
    assert await cause_of(both, token(signer.keys["RS256"], "RS256", headers, iss=OTHER_ISSUER)) == "ann"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "Bearer x", "\0", "ä.ä.ä", "ck_x", "a" * 8193, "e30.e30.AA\n",
     "e30.e30.", "e30.e30.AA==", "_w._w._w", f"{encoded(DEEP.encode())}.e30.AA"],
    ids=range(16),
)  # fmt: skip
async def test_what_is_no_token_is_rejected(tokens: TokensJWT, text: str) -> None:
    assert await cause_of(tokens, text) == Cause.MALFORMED


async def test_there_is_one_way_to_write_a_token(tokens: TokensJWT) -> None:
    text = token()
    assert await cause_of(tokens, text) == "ann"
    assert len(text.rpartition(".")[2]) == 43  # so that PyJWT would take the padding below

    variants = [
        text + "=",
        text.replace(".", "=.", 1),
        f" {text}",
        f"{text} ",
        f"{text}\n",
        text[:-1] + "\n" + text[-1:],
    ]
    assert {await cause_of(tokens, variant) for variant in variants} == {Cause.MALFORMED}


async def test_a_deeply_nested_payload_is_rejected(tokens: TokensJWT) -> None:
    assert await cause_of(tokens, signed(encoded({"alg": "HS256"}), encoded(DEEP.encode()))) == Cause.MALFORMED


async def test_a_token_of_more_than_8_kilobytes_is_rejected(tokens: TokensJWT) -> None:
    assert await cause_of(tokens, token(x="y" * 5_000)) == "ann"
    assert await cause_of(tokens, token(x="y" * 6_200)) == Cause.MALFORMED


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_of_the_identity_provider_is_accepted(both: TokensJWT, signer: Signer, algorithm: str) -> None:
    assert await both.subject(signer.token(algorithm, iss=OTHER_ISSUER)) == "ann"


async def test_each_source_of_keys_has_its_own_issuer(both: TokensJWT, signer: Signer) -> None:
    assert await cause_of(both, signer.token("RS256", iss=ISSUER)) == Cause.ISSUER
    assert await cause_of(both, token(iss=OTHER_ISSUER)) == Cause.ISSUER
    assert await cause_of(both, token()) == "ann"


async def test_a_key_is_used_with_its_own_algorithm_only(both: TokensJWT, signer: Signer) -> None:
    for algorithm in ("RS384", "PS256"):
        text = token(signer.keys["RS256"], algorithm, {"kid": "RS256"}, iss=OTHER_ISSUER)
        assert await cause_of(both, text) == Cause.ALGORITHM
    assert await cause_of(both, signer.token("RS256", "ES256", iss=OTHER_ISSUER)) == Cause.ALGORITHM


async def test_a_public_key_is_never_used_as_a_secret(both: TokensJWT, signer: Signer) -> None:
    public = signer.keys["RS256"].public_key()
    for format in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1):
        pem = public.public_bytes(Encoding.PEM, format).decode()
        header = encoded({"alg": "HS256", "kid": "RS256"})
        for issuer in (ISSUER, OTHER_ISSUER):
            assert await cause_of(both, signed(header, encoded(claims(iss=issuer)), pem)) == Cause.SIGNATURE


async def test_an_unknown_signer_is_rejected(both: TokensJWT, signer: Signer) -> None:
    assert await cause_of(both, signer.token("RS256", "other", iss=OTHER_ISSUER)) == Cause.UNKNOWN_SIGNER


async def test_no_mutated_token_is_accepted(both: TokensJWT, signer: Signer) -> None:
    texts = [token(), *(signer.token(name, iss=OTHER_ISSUER) for name in ("RS256", "ES256", "EdDSA"))]
    tried = [mutated for text in texts for mutated in mutations(text, 500)]

    accepted = [mutated for mutated in tried if not isinstance(await cause_of(both, mutated), Cause)]

    assert len(tried) == 2_000
    assert accepted == []
