"""API keys in process memory, for tests."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from application.ports.credentials import APIKeys
from domain.api_key import APIKey


class APIKeysInMemory(APIKeys):
    """Keys that end with the process."""

    def __init__(self) -> None:
        self._keys: dict[str, APIKey] = {}

    async def create(self, key: APIKey) -> None:
        self._keys[key.id] = key

    async def find(self, key_id: str) -> APIKey | None:
        return self._keys.get(key_id)

    async def all(self) -> Sequence[APIKey]:
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str, now: datetime) -> bool:
        key = self._keys.get(key_id)
        if key is not None and key.revoked_at is None:
            self._keys[key_id] = replace(key, revoked_at=now)
        return key is not None
