"""Which credentials the container accepts, and where it looks them up."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from application.authentication import Authenticate
from domain.api_key import APIKey, digest_of, text_of
from domain.errors import Unauthenticated
from domain.principal import Role
from entrypoints.container import Container
from entrypoints.settings import Settings
from tests.harness.tokens import AUDIENCE, ISSUER, SECRET, token

TOKENS = {"auth_jwt_secret": SECRET, "auth_issuer": ISSUER, "auth_audience": AUDIENCE}
NO_DATABASE = {"history_backend": "in_memory", "memory_backend": "none"}
KEY_SECRET = "a" * 64


def container_of(directory: Path, **settings: Any) -> Container:
    return Container(settings=Settings(_env_file=None, data_dir=directory, **settings))


async def accepted(authenticate: Authenticate, *credentials: str) -> list[bool]:
    """Return which of the credentials are accepted."""
    found = []
    for credential in credentials:
        try:
            await authenticate(credential, "192.0.2.1")
            found.append(True)
        except Unauthenticated:
            found.append(False)
    return found


def test_without_authentication_nobody_is_asked(tmp_path: Path) -> None:
    container = container_of(tmp_path)

    assert container.authenticate() is None
    assert container.api_keys() is None


@pytest.mark.parametrize(
    ("mode", "accepts"),
    [("api_key", (True, False)), ("jwt", (False, True)), ("api_key+jwt", (True, True)), ("auto", (False, True))],
)
@pytest.mark.parametrize("stores", [{}, NO_DATABASE])
def test_each_mode_accepts_its_own_credentials(
    mode: str, accepts: tuple[bool, bool], stores: dict[str, str], tmp_path: Path
) -> None:
    container = container_of(tmp_path, auth_mode=mode, **TOKENS, **stores)
    databases = [part for part in container.parts() if hasattr(part, "migrate")]
    authenticate, keys = container.authenticate(), container.api_keys()
    key = APIKey("0" * 16, digest_of(KEY_SECRET), Role.SERVICE, container.now()())

    async def outcomes() -> list[bool]:
        async with AsyncExitStack() as stack:
            for database in databases:
                await stack.enter_async_context(database)
            if keys is not None:
                await keys.create(key)
            return await accepted(authenticate, text_of(key.id, KEY_SECRET), token())

    assert tuple(asyncio.run(outcomes())) == accepts
    expected = {"chat.db"} if not stores else {"keys.db"} if "api_key" in mode else set()
    assert {path.name for path in tmp_path.glob("*.db")} == expected


def test_a_process_has_one_authentication_with_one_count_of_failures(tmp_path: Path) -> None:
    container = container_of(tmp_path, auth_mode="api_key")

    assert container.authenticate() is container.authenticate()
