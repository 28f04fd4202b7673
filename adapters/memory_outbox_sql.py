"""The outbox of long-term memory as rows beside the turns."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Executable, bindparam, delete, func, select, text, update

from adapters.sql.database import Database, Statements, T
from adapters.sql.errors import raised_as
from adapters.sql.tables import forgetting, remembering, turns
from adapters.sql.turn_rows import turn_of
from application.ports.history import HistoryUnavailable
from application.ports.memory_outbox import MemoryOutbox, OutboxCounts, Remembering
from domain.conversation import TurnId, UserId


class MemoryOutboxSQL(MemoryOutbox):
    """For having long-term memory follow the turns of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: datetime, limit: int, *, besides: Collection[UserId] = ()) -> Sequence[Remembering]:
        wanted = {"now": now, "rows": limit, "besides": list(besides)}
        rows = await self._read(lambda connection: connection.execute(_DUE, wanted).all())
        return [Remembering(turn_of(row[:-1]), row[-1]) for row in rows]

    async def settle(self, turn_id: TurnId) -> None:
        await self._write({"turn": turn_id}, _SETTLE)

    async def postpone(self, turn_id: TurnId, until: datetime) -> None:
        await self._write({"turn": turn_id, "until": until}, _POSTPONE)

    async def give_up(self, turn_id: TurnId) -> None:
        await self._write({"turn": turn_id}, _GIVE_UP)

    async def begin_forgetting(self, user_id: UserId) -> None:
        await self._write({"user": user_id}, _WITHDRAW, _BEGIN_FORGETTING)

    async def end_forgetting(self, user_id: UserId) -> None:
        await self._write({"user": user_id}, _END_FORGETTING)

    async def is_forgetting(self, user_id: UserId) -> bool:
        return bool(await self._read(lambda connection: connection.execute(_IS_FORGETTING, {"user": user_id}).all()))

    async def forgetting(self, limit: int) -> Sequence[UserId]:
        users = await self._read(lambda connection: connection.execute(_FORGETTING, {"rows": limit}).scalars().all())
        return list(map(UserId, users))

    async def counts(self) -> OutboxCounts:
        waiting, dead, users = await self._read(lambda connection: connection.execute(_COUNTS).one())
        return OutboxCounts(waiting, dead, users)

    async def _read(self, statements: Statements[T]) -> T:
        with raised_as(HistoryUnavailable):
            return await self._database.read(statements)

    async def _write(self, values: Mapping[str, Any], *statements: Executable) -> None:
        """Run the statements, in one transaction and with the same values."""

        def write(connection: Connection) -> None:
            for statement in statements:
                connection.execute(statement, values)

        with raised_as(HistoryUnavailable):
            await self._database.write(write)


_OF_TURN: Final = remembering.c.turn_id == bindparam("turn")
_OF_USER: Final = forgetting.c.user_id == bindparam("user")

_DUE: Final = (
    select(turns, remembering.c.attempts)
    .join_from(remembering, turns, turns.c.id == remembering.c.turn_id)
    .where(
        remembering.c.due_at <= bindparam("now"),
        remembering.c.user_id.not_in(select(forgetting.c.user_id)),
        remembering.c.user_id.not_in(bindparam("besides", expanding=True)),
    )
    .order_by(remembering.c.due_at)
    .limit(bindparam("rows"))
)
_SETTLE: Final = delete(remembering).where(_OF_TURN)
_POSTPONE: Final = (
    update(remembering).where(_OF_TURN).values(due_at=bindparam("until"), attempts=remembering.c.attempts + 1)
)
_GIVE_UP: Final = update(remembering).where(_OF_TURN).values(due_at=None, attempts=remembering.c.attempts + 1)
_WITHDRAW: Final = delete(remembering).where(remembering.c.user_id == bindparam("user"))
_BEGIN_FORGETTING: Final = text("INSERT INTO forgetting (user_id) VALUES (:user) ON CONFLICT (user_id) DO NOTHING")
_END_FORGETTING: Final = delete(forgetting).where(_OF_USER)
_IS_FORGETTING: Final = select(forgetting.c.user_id).where(_OF_USER)
_FORGETTING: Final = select(forgetting.c.user_id).order_by(forgetting.c.user_id).limit(bindparam("rows"))
_COUNTS: Final = select(
    select(func.count()).select_from(remembering).where(remembering.c.due_at.is_not(None)).scalar_subquery(),
    select(func.count()).select_from(remembering).where(remembering.c.due_at.is_(None)).scalar_subquery(),
    select(func.count()).select_from(forgetting).scalar_subquery(),
)
