"""`smart-chatbot keys`: create, list and revoke API keys, also while the service runs."""

import asyncio
import secrets
import sys
from datetime import datetime, timedelta
from typing import Final

from adapters.clock import utc_now
from adapters.credentials_sql import APIKeysSQL
from adapters.sql.databases import database_at
from adapters.sql.visitor import Visitor
from domain.api_key import ID_BYTES, PREFIX, SECRET_BYTES, APIKey, digest_of, text_of
from domain.conversation import UserId
from domain.errors import Unusable
from domain.principal import Role
from entrypoints.program import program
from entrypoints.settings import Settings
from entrypoints.standard_streams import warn

MAX_NAME_CHARS: Final = 100


class Keys:
    """The API keys of the configured database. Every method raises Unusable if that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        database = database_at(settings.key_database)
        self._database = database.name
        self._keys = APIKeysSQL(Visitor(database))

    def create(self, role: str, name: str, prefix: str, lifetime: timedelta | None) -> None:
        """Create a key and print it on the first line of standard output, and what is stored of it on standard error.

        Raises:
            Unusable: the name or the prefix is not valid.
        """
        _require_printable("--name", name)
        _require_prefix(role, prefix)
        now = utc_now()
        secret = secrets.token_hex(SECRET_BYTES)
        key = APIKey(
            id=secrets.token_hex(ID_BYTES),
            digest=digest_of(secret),
            role=Role(role),
            created_at=now,
            name=name,
            prefix=prefix,
            expires_at=None if lifetime is None else now + lifetime,
        )
        asyncio.run(self._keys.create(key))
        print(text_of(key.id, secret), flush=True)
        print(
            f"Created key {key.id} in the database {self._database}. It is not stored and cannot be shown again.",
            file=sys.stderr,
        )
        if "api_key" not in self._settings.auth:
            both = "api_key+jwt" if "jwt" in self._settings.auth else "api_key"
            warn(
                f"With the settings of this command (AUTH_MODE: {self._settings.auth}) no API key is accepted: unless "
                f"the service has others, set AUTH_MODE={both} and restart it."
            )

    def list(self) -> None:
        """Print a line for each key, oldest first, with a heading."""
        keys = asyncio.run(self._keys.all())
        now = utc_now()
        rows = [("ID", "ROLE", "STATE", "CREATED", "EXPIRES", "PREFIX", "NAME")]
        rows += [
            (key.id, key.role, _state(key, now), _day(key.created_at), _day(key.expires_at), key.prefix, key.name)
            for key in keys
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def revoke(self, key_id: str) -> None:
        """Revoke a key. The service refuses it from the next request on.

        Raises:
            Unusable: there is no such key.
        """
        if key_id.startswith(PREFIX):  # do not repeat the secret
            raise Unusable(
                f"A key is revoked by its id, the part between ck_ and the next _; see: {program()} keys list"
            )
        if not asyncio.run(self._keys.revoke(key_id, utc_now())):
            raise Unusable(f"There is no key with this id in the database {self._database}; see: {program()} keys list")
        print(f"Revoked key {key_id}.")


def _require_printable(option: str, text: str) -> None:
    if len(text) > MAX_NAME_CHARS or not text.isprintable():
        raise Unusable(f"{option}: must be at most {MAX_NAME_CHARS} printable characters")


def _require_prefix(role: str, prefix: str) -> None:
    if not prefix:
        return
    if role != Role.SERVICE:
        raise Unusable("--prefix: only a service can be limited to some users")
    try:
        UserId(prefix)
    except ValueError:
        raise Unusable("--prefix: no id of a user begins like this") from None


def _state(key: APIKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.has_expired(now) else "active"


def _day(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M}Z"
