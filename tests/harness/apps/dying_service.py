"""The service with a history that kills the process at a given point of a turn.

python -m tests.harness.apps.dying_service after_begin | before_finish | after_finish
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence

from dependency_injector import providers

from adapters.history_sql import HistorySQL
from adapters.sql.database import Database
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import Turn
from entrypoints.container import Container
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import load_settings


class DyingHistory(HistorySQL):
    def __init__(self, database: Database, point: str) -> None:
        super().__init__(database)
        self._point = point

    async def begin(self, begin: TurnBegin) -> Turn:
        stored = await super().begin(begin)
        self._die("after_begin")
        return stored

    async def finish(self, end: TurnEnd) -> Turn | None:
        self._die("before_finish")
        stored = await super().finish(end)
        self._die("after_finish")
        return stored

    def _die(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    settings = load_settings()
    container = Container(settings=settings)
    container.store.override(providers.Singleton(DyingHistory, container.database, arguments[0]))
    app = create_app(settings, container)
    listener = socket.create_server((settings.host, settings.port))
    DrainingServer(app, lambda url: print(f"listens on {url}", flush=True)).run([listener])


if __name__ == "__main__":
    main(sys.argv[1:])
