"""Real API keys and tokens, from the request to the stored data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from domain.api_key import ID_BYTES, SECRET_BYTES, APIKey, digest_of, text_of
from domain.principal import Role
from tests.harness.credentials import authentication
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, service_in_process
from tests.harness.tokens import FromNow, token

HELLO = {"user_id": "ann", "message": "Hello"}
KEY_ID = "1".rjust(2 * ID_BYTES, "0")
HEALTH = "/api/health/detailed"


@asynccontextmanager
async def service_with_keys(directory: Path, **settings: Any) -> AsyncIterator[Service]:
    stores = {"history_backend": "sql", "memory_backend": "sql", "data_dir": directory}
    mode = authentication("api_key+jwt")
    async with service_in_process({"llm": ScriptedLLM()}, **stores, **mode, **settings) as service:
        yield service


async def create_key(service: Service, digit: str, role: Role = Role.SERVICE, prefix: str = "") -> dict[str, str]:
    """Store a key whose id and secret end with `digit`, and return the header with it."""
    key_id, secret = digit.rjust(2 * ID_BYTES, "0"), digit.rjust(2 * SECRET_BYTES, "0")
    await service.container.api_keys().create(APIKey(key_id, digest_of(secret), role, datetime.now(UTC), prefix=prefix))
    return {"X-API-Key": text_of(key_id, secret)}


def bearer_token(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**claims)}"}


async def statuses(service: Service, headers: dict[str, str]) -> list[int]:
    paths = ("/api/chat/history/ann", "/api/chat/history/ben", HEALTH)
    return [(await service.client.get(path, headers=headers)).status_code for path in paths]


async def test_every_kind_of_credential_reaches_what_it_may(tmp_path: Path) -> None:
    async with service_with_keys(tmp_path) as service:
        limited = await create_key(service, "1", prefix="a")
        unlimited = await create_key(service, "2")
        admin = await create_key(service, "3", Role.ADMIN)

        assert await statuses(service, {}) == [401, 401, 401]
        assert await statuses(service, bearer_token(sub="ann")) == [200, 403, 403]
        assert await statuses(service, limited) == [200, 403, 200]
        assert await statuses(service, unlimited) == [200, 200, 200]
        assert await statuses(service, admin) == [200, 200, 200]


async def test_a_revoked_key_is_refused_with_the_next_request(tmp_path: Path) -> None:
    async with service_with_keys(tmp_path) as service:
        headers = await create_key(service, "1")
        before = await service.client.post("/api/chat/simple", json=HELLO, headers=headers)
        await service.container.api_keys().revoke(KEY_ID, datetime.now(UTC))
        after = await service.client.post("/api/chat/simple", json=HELLO, headers=headers)

    assert [before.status_code, after.status_code] == [200, 401]


async def test_all_invalid_credentials_get_the_same_response(tmp_path: Path) -> None:
    async with service_with_keys(tmp_path) as service:
        headers = await create_key(service, "1")
        invalid = [
            {},
            {"X-API-Key": headers["X-API-Key"] + "0"},
            {"X-API-Key": text_of(KEY_ID, "0" * 2 * SECRET_BYTES)},
            {"X-API-Key": token()},
            {"Authorization": "Bearer x"},
            bearer_token(exp=FromNow(-60)),
            bearer_token(aud="another"),
            bearer_token(sub="*"),
        ]
        responses = [await service.client.get(HEALTH, headers=one | {"X-Request-ID": "same"}) for one in invalid]

    assert {_without_date(response) for response in responses} == {_without_date(responses[0])}
    assert responses[0].status_code == 401


async def test_after_many_failures_only_a_valid_credential_passes(tmp_path: Path) -> None:
    async with service_with_keys(tmp_path) as service:
        guesses = [await service.client.get(HEALTH, headers={"Authorization": f"Bearer {n}"}) for n in range(12)]
        valid = await service.client.get("/api/chat/history/ann", headers=bearer_token())

    assert [response.status_code for response in guesses] == [401] * 10 + [429] * 2
    assert guesses[-1].json()["code"] == "too_many_attempts"
    assert int(guesses[-1].headers["Retry-After"]) >= 1
    assert valid.status_code == 200


def _without_date(response: httpx2.Response) -> tuple[int, bytes, tuple[tuple[str, str], ...]]:
    return response.status_code, response.content, tuple(sorted(response.headers.items()))
