"""The contract suite of APIKeys."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from application.ports.credentials import APIKeys
from domain.api_key import APIKey, digest_of
from domain.principal import Role
from tests.contract.suite import Suite

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
ONE = APIKey("0000000000000001", digest_of("one"), Role.SERVICE, NOW)
TWO = APIKey(
    "0000000000000002",
    digest_of("two"),
    Role.ADMIN,
    NOW + timedelta(microseconds=1),
    name="A name: größer, \N{GRINNING FACE}, 'quoted'",
    prefix="acme:",
    expires_at=NOW + timedelta(days=90),
)


async def create(keys: APIKeys, key: APIKey) -> None:
    await keys.create(key)


async def revoke(keys: APIKeys, key_id: str) -> None:
    await keys.revoke(key_id, NOW)


class APIKeysContract(Suite[APIKeys]):
    """Run by every APIKeys."""

    @pytest.fixture
    async def keys(self, tmp_path: Path) -> AsyncIterator[APIKeys]:
        async with self.opened(tmp_path) as keys:
            yield keys

    async def test_a_key_is_found_by_its_id_as_it_was_created(self, keys: APIKeys) -> None:
        for key in (ONE, TWO):
            await keys.create(key)

        assert [await keys.find(key.id) for key in (ONE, TWO)] == [ONE, TWO]

    @pytest.mark.parametrize(
        "key_id", ["", "0000000000000009", "000000000000000", "%", "0000000000000001 ", "' OR '1'='1"]
    )
    async def test_another_id_finds_nothing(self, keys: APIKeys, key_id: str) -> None:
        await keys.create(ONE)

        assert await keys.find(key_id) is None

    async def test_all_keys_are_listed_oldest_first(self, keys: APIKeys) -> None:
        assert list(await keys.all()) == []
        for key in (TWO, ONE):
            await keys.create(key)

        assert list(await keys.all()) == [ONE, TWO]

    async def test_a_revoked_key_is_still_found_with_the_time_of_its_revocation(self, keys: APIKeys) -> None:
        for key in (ONE, TWO):
            await keys.create(key)

        assert await keys.revoke(ONE.id, NOW + timedelta(hours=1))

        revoked = replace(ONE, revoked_at=NOW + timedelta(hours=1))
        assert await keys.find(ONE.id) == revoked
        assert list(await keys.all()) == [revoked, TWO]

    async def test_a_key_stays_revoked_since_the_first_time(self, keys: APIKeys) -> None:
        await keys.create(ONE)
        for hours in (1, 2):
            assert await keys.revoke(ONE.id, NOW + timedelta(hours=hours))

        found = await keys.find(ONE.id)
        assert found is not None
        assert found.revoked_at == NOW + timedelta(hours=1)

    async def test_revoking_a_key_that_does_not_exist_is_reported(self, keys: APIKeys) -> None:
        assert not await keys.revoke(ONE.id, NOW)


class DurableAPIKeysContract(APIKeysContract):
    """For keys that outlive their process."""

    async def test_keys_are_there_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as keys:
            await keys.create(ONE)
        async with self.opened(tmp_path) as keys:
            assert await keys.find(ONE.id) == ONE

    async def test_keys_and_revocations_are_there_after_the_process_dies(self, tmp_path: Path) -> None:
        await self.call_in_dying_process(tmp_path, create, ONE)
        await self.call_in_dying_process(tmp_path, revoke, ONE.id)
        async with self.opened(tmp_path) as keys:
            assert await keys.find(ONE.id) == replace(ONE, revoked_at=NOW)
