"""No secret of authentication is in a log, an error, or a traceback, whatever happens, at debug level."""

import json
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from adapters.credentials_sql import APIKeysSQL
from adapters.sql.visitor import Visitor
from application.authentication import Authenticate
from domain.api_key import APIKey, digest_of, text_of
from domain.errors import ChatError
from domain.principal import Role
from entrypoints.container import Container
from entrypoints.observability import configure_logging
from entrypoints.settings import Settings
from tests.harness.failing_database import FailingDatabase
from tests.harness.raw_server import Call, RawServer
from tests.harness.service_log import ServiceLog
from tests.harness.tokens import Signer, token

pytestmark = pytest.mark.server

CANARIES = [f"c0ffee{number:02}" for number in range(12)]
"""Parts of secrets, in hexadecimal digits so that they can be in keys."""

ADDRESS = "192.0.2.1"


def secret(number: int) -> str:
    """Return a secret that contains a canary."""
    return f"{CANARIES[number]}0123456789abcdef0123456789abcdef0123456789abcdef01234567"


async def answer_with_a_canary(call: Call) -> None:
    await call.head()
    await call.send(b"HTTP/1.1 200 %b\r\ncontent-length: 8\r\n\r\n%b" % (CANARIES[2].encode(), CANARIES[2].encode()))


async def failed(authenticate: Authenticate, credential: str) -> str:
    """Return everything about the error with which a credential is refused."""
    with pytest.raises(ChatError) as refused:
        await authenticate(credential, ADDRESS)
    return "".join(traceback.format_exception(refused.value)) + repr(refused.value) + repr(vars(refused.value))


async def test_no_canary_is_in_any_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(_env_file=None, debug=True))
    async with RawServer(answer_with_a_canary) as server:
        settings = Settings(
            _env_file=None,
            debug=True,
            auth_mode="api_key+jwt",
            auth_jwt_secret=secret(0),
            auth_jwks_url=f"{server.url}/keys?key={CANARIES[1]}",
            auth_issuer="https://one.example,https://two.example",
            auth_audience="chat",
            data_dir=tmp_path,
            log_pseudonym_key=secret(3),
            openai_api_key=secret(4),
        )
        container = Container(settings=settings)
        async with container.database() as database:
            keys = container.api_keys()
            known = APIKey("0" * 16, digest_of(secret(5)), Role.SERVICE, container.now()())
            await keys.create(known)
            authenticate = container.authenticate()
            assert (await authenticate(text_of(known.id, secret(5)), ADDRESS)).id == known.id
            assert (await authenticate(token(secret(0), iss="https://one.example", x=secret(6)), ADDRESS)).id == "ann"
            credentials = [
                text_of(known.id, secret(7)),  # wrong
                text_of("1" * 16, secret(8)),  # unknown
                f"ck_{CANARIES[9]}",  # malformed
                CANARIES[9] + "\r\n{}",
                token(secret(10), headers={"kid": CANARIES[10]}, sub=CANARIES[10]),
                token(secret(0), sub="*" + CANARIES[11]),
                token(secret(0), iss=CANARIES[11], aud=CANARIES[11]),
                Signer().token("RS256", CANARIES[11], iss="https://two.example"),  # fetches the key set
            ]
            errors = [await failed(authenticate, credential) for credential in credentials]
            await keys.revoke(known.id, container.now()())
            errors += [await failed(authenticate, text_of(known.id, secret(5)))]
            errors += [repr(await APIKeysSQL(Visitor(database)).all()), repr(container.tokens())]
        errors += [await failed(authenticate, text_of(known.id, secret(5)))]  # closed
    broken = OperationalError("SELECT", {"digest": digest_of(secret(7))}, Exception("broken"), hide_parameters=True)
    on_broken = Authenticate(APIKeysSQL(FailingDatabase(broken)), None, container.observer(), container.now())
    errors += [await failed(on_broken, text_of(known.id, secret(8)))]

    log = ServiceLog(capsys)
    causes = [line["cause"] for line in log.events("authentication failed")]
    assert len(causes) == 8
    assert len(log.events("signing keys not fetched")) == 1
    texts = [log.text, *errors]
    assert [canary for canary in CANARIES for text in texts if canary in text] == []
    assert not {digest for digest in (digest_of(secret(5)), digest_of(secret(7))) if digest in log.text}
    assert [number for number in (0, 3, 4) if CANARIES[number] in repr(settings)] == []
    assert_one_record_per_line(log.text)


def assert_one_record_per_line(text: str) -> None:
    records: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp"} <= record.keys() for record in records)
    assert text.isascii()


async def test_an_address_cannot_forge_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    configure_logging(Settings(_env_file=None, debug=True))
    container = Container(settings=Settings(_env_file=None, auth_mode="api_key", data_dir=tmp_path))
    authenticate = container.authenticate()
    for address in ('\r\n{"event": "forged"}', "\x1b[31m", "\N{RIGHT-TO-LEFT OVERRIDE}x", "\0", "\u2028"):
        with pytest.raises(ChatError):
            await authenticate("ck_", address)

    log = ServiceLog(capsys)
    assert len(log.lines) == len(log.events("authentication failed")) == 5
    assert_one_record_per_line(log.text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", log.text)
