"""LiveTurns of workers that share a database, used as the use cases do: after and together with the history."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from adapters.history_sql import HistorySQL
from adapters.live_turns_sql import LiveTurnsSQL
from adapters.sql.postgres.database import PostgresDatabase
from application.ports.history import TurnBegin
from application.ports.live_turns import EventLog, Stop
from domain.conversation import ConversationId, Turn, UserId
from tests.harness.exchange import TIMEOUT
from tests.harness.postgres import open_database_in


class Worker(LiveTurnsSQL):
    """Begins a turn in the history before its log is opened, and clears the history before logs are discarded."""

    def __init__(self, database: PostgresDatabase, **limits: Any) -> None:
        super().__init__(database, **limits)
        self.database = database
        self.history = HistorySQL(database, database.now)

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        await self.history.begin(TurnBegin(turn, timedelta(seconds=15)))
        return await super().open(turn, stop, stop_when_left=stop_when_left)

    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        await self.history.clear(user_id, conversation_id)
        await super().discard(user_id, conversation_id)


@asynccontextmanager
async def open_worker(directory: Path, **limits: Any) -> AsyncIterator[Worker]:
    """Open another worker on the database whose URL is in the directory."""
    async with open_database_in(directory) as database, Worker(database, **limits) as worker:
        await _until_listening(database)
        yield worker


async def _until_listening(database: PostgresDatabase) -> None:
    """Wait until messages of other workers arrive. Turns that begin before are assumed to have readers there."""
    listening = asyncio.Event()
    database.notifications.subscribe("of no adapter", lambda _: None, listening.set)
    async with asyncio.timeout(TIMEOUT):
        await listening.wait()
