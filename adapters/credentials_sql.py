"""API keys in a relational database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import Connection, bindparam, insert, select, update

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import Statements, T
from adapters.sql.history_errors import Explaining, history_errors
from adapters.sql.tables import api_keys, instant
from application.ports.credentials import APIKeys
from domain.api_key import APIKey
from domain.principal import Role


class Transactions(Explaining, Protocol):
    """The part of a `Database` that is used here. A `Visitor` has it, too."""

    async def read(self, statements: Statements[T]) -> T: ...

    async def read_shared(self, statements: Statements[T]) -> T: ...

    async def write(self, statements: Statements[T]) -> T: ...


class APIKeysSQL(APIKeys):
    """API keys as rows, found by their primary key: one indexed read for each request that has one.

    None is found in a file that was removed or replaced: commands would not revoke it there.
    """

    def __init__(self, database: Transactions) -> None:
        self._database = database

    async def create(self, key: APIKey) -> None:
        row = {column.name: getattr(key, column.name) for column in api_keys.columns}
        await self._write(lambda connection: connection.execute(_INSERT, row).close())

    async def find(self, key_id: str) -> APIKey | None:
        values = {"key": key_id}
        with history_errors(self._database):
            row = await self._database.read_shared(lambda connection: _FIND.execute_raw(connection, values).fetchone())
        return None if row is None else _key(row)

    async def all(self) -> Sequence[APIKey]:
        with history_errors(self._database):
            rows = await self._database.read(lambda connection: _ALL.execute_raw(connection, {}).fetchall())
        return [_key(row) for row in rows]

    async def revoke(self, key_id: str, now: datetime) -> bool:
        values = {"key": key_id, "now": now}

        def revoke(connection: Connection) -> bool:
            connection.execute(_REVOKE, values).close()
            return connection.execute(_EXISTS, values).first() is not None

        return await self._write(revoke)

    async def _write(self, statements: Statements[T]) -> T:
        with history_errors(self._database):
            return await self._database.write(statements)


_ONE: Final = api_keys.c.id == bindparam("key")
_INSERT: Final = insert(api_keys)
_FIND: Final = PrecompiledStatement(select(*api_keys.columns).where(_ONE))
_ALL: Final = PrecompiledStatement(select(*api_keys.columns).order_by(api_keys.c.created_at, api_keys.c.id))
_REVOKE: Final = update(api_keys).where(_ONE, api_keys.c.revoked_at.is_(None)).values(revoked_at=bindparam("now"))
_EXISTS: Final = select(api_keys.c.id).where(_ONE)


def _key(row: Sequence[Any]) -> APIKey:
    """Return the key of a row as the driver returns it."""
    id, digest, role, name, prefix, created_at, expires_at, revoked_at = row
    return APIKey(
        id=id,
        digest=digest,
        role=Role(role),
        created_at=instant(created_at),
        name=name,
        prefix=prefix,
        expires_at=None if expires_at is None else instant(expires_at),
        revoked_at=None if revoked_at is None else instant(revoked_at),
    )
