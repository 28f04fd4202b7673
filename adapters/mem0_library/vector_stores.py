"""Where Mem0 keeps its vectors: embedded Qdrant, a Qdrant server, or PostgreSQL with pgvector."""

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from adapters.mem0_unusable import Mem0Unusable

COLLECTION: Final = "memories"

PATIENCE: Final = 5
"""Seconds to wait for a connection, or for a free one of the pool."""

STATEMENT_MILLISECONDS: Final = 20_000

VACUUM_BYTES: Final = 16 * 2**20
"""Up to this size a file of embedded Qdrant's is rewritten after an erasure, which takes 10 ms a megabyte.

SQLite overwrites what it deletes, but not the copies that it left in the unused part of a page when it moved a row to
another. In larger files such remnants stay until SQLite uses their place, or the operator runs VACUUM.
"""


def configuration(store_url: str | None, directory: Path, dimensions: int) -> Mapping[str, Any]:
    """Mem0's section for a store: a database or server by its URL, else one embedded in `directory`.

    Raises:
        Mem0Unusable: the URL is none of those.
    """
    common = {"collection_name": COLLECTION, "embedding_model_dims": dimensions}
    if store_url is None:
        return {"provider": "qdrant", "config": {**common, "path": str(directory / "qdrant"), "on_disk": True}}
    try:
        url = urlsplit(store_url)
        port = url.port
    except ValueError:
        raise Mem0Unusable("The URL of Mem0's store can not be read.") from None
    if url.scheme in ("postgresql", "postgres"):
        # Its approximate index looks for the nearest of all users first and for the user's among them then, which may
        # be none. Each user's own few are compared exactly instead, found by an index that `prepare` makes.
        return {
            "provider": "pgvector",
            "config": {**common, "connection_string": _bounded(store_url), "hnsw": False, "maxconn": 10},
        }
    if url.scheme in ("http", "https") and url.hostname:
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        port = port or 6333
        if url.password:
            address = {"url": f"{url.scheme}://{host}:{port}", "api_key": unquote(url.password)}
            return {"provider": "qdrant", "config": {**common, **address}}
        server = {"host": host, "port": port, "https": url.scheme == "https"}
        return {"provider": "qdrant", "config": {**common, **server}}
    raise Mem0Unusable("Mem0's store must be a postgresql://, http:// or https:// URL, or nothing.")


def _bounded(store_url: str) -> str:
    """The URL with limits on waiting, where it has none."""
    import psycopg.conninfo

    try:
        given = psycopg.conninfo.conninfo_to_dict(store_url)
    except psycopg.Error:
        raise Mem0Unusable("The URL of Mem0's store is not one that PostgreSQL takes.") from None
    limits = {"connect_timeout": str(PATIENCE), "options": f"-c statement_timeout={STATEMENT_MILLISECONDS}"}
    return psycopg.conninfo.make_conninfo("", **{**limits, **given})


class Store:
    """What has to be known of a vector store beside what Mem0 asks of it. `of` tells which one it is."""

    guard: AbstractContextManager[Any] = nullcontext()
    """What a thread holds while it works on the store. Nothing: many may."""

    @staticmethod
    def of(memory: Any) -> "Store":
        """The store of an `AsyncMemory`; where it is not known to bear many threads at once, it gets one."""
        provider = memory.config.vector_store.provider
        if provider == "pgvector":
            return Postgres(memory)
        if provider == "qdrant":
            return EmbeddedQdrant(memory) if memory.vector_store.is_local else QdrantServer(memory)
        return OneAtATime(memory)

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def prepare(self) -> None:
        """Make what is needed before the first call. Whatever is raised ends the start."""

    def erase(self) -> None:
        """Take what was deleted out of the store's files. Where they are someone else's, it is left to them."""

    def close(self) -> None:
        """Close connections and files."""


class OneAtATime(Store):
    def __init__(self, memory: Any) -> None:
        super().__init__(memory)
        self.guard = threading.RLock()


class QdrantServer(Store):
    def prepare(self) -> None:
        self._compare(self.memory.vector_store.client)

    def _compare(self, client: Any) -> None:
        vectors = client.get_collection(self.memory.collection_name).config.params.vectors
        _expect(getattr(vectors, "size", None), self.memory)

    def close(self) -> None:
        self.memory.vector_store.client.close()


class EmbeddedQdrant(QdrantServer):
    """Qdrant's client on files of its own, which is for one process, and for one thread at a time."""

    def __init__(self, memory: Any) -> None:
        super().__init__(memory)
        self.guard = self._lock = threading.RLock()

    def prepare(self) -> None:
        super().prepare()
        for sqlite in self._files():
            sqlite.execute("PRAGMA secure_delete = ON")
            sqlite.execute("PRAGMA temp_store = MEMORY")
        self.erase()  # what a process that died had deleted

    def erase(self) -> None:
        with self._lock:
            for sqlite in self._files():
                ((pages, size),) = sqlite.execute("SELECT * FROM pragma_page_count, pragma_page_size")
                if pages * size <= VACUUM_BYTES:
                    sqlite.execute("VACUUM")

    def close(self) -> None:
        with self._lock:
            super().close()

    def _files(self) -> Iterator[Any]:
        for collection in self.memory.vector_store.client._client.collections.values():
            yield collection.storage.storage


class Postgres(Store):
    def prepare(self) -> None:
        from psycopg import sql  # imported with Mem0, where it is wanted

        stores = self.memory.vector_store, self.memory.entity_store
        for store in stores:
            store.connection_pool.timeout = PATIENCE
        # Two processes that start at once would both find the extension missing, and one of them fail.
        with self._alone():
            for store in stores:
                store.create_col()
                table = store.collection_name
                statement = "CREATE INDEX IF NOT EXISTS {} ON {} ((payload->>'user_id'))"
                names = sql.Identifier(f"{table}_user_id_idx"), sql.Identifier(table)
                with store.connection_pool.connection() as connection:
                    connection.execute(sql.SQL(statement).format(*names))
        with stores[0].connection_pool.connection() as connection:
            column = "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'vector'"
            (size,) = connection.execute(column, [stores[0].collection_name]).fetchone()
        _expect(size, self.memory)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        import psycopg

        with psycopg.connect(self.memory.vector_store.connection_pool.conninfo) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('smart-chatbot: collections of Mem0'))")
            yield

    def close(self) -> None:
        for store in (self.memory.vector_store, self.memory.entity_store):
            store.connection_pool.close()


def _expect(size: int | None, memory: Any) -> None:
    wanted = memory.config.vector_store.config.embedding_model_dims
    if size is not None and size > 0 and size != wanted:
        raise Mem0Unusable(
            f"The memories that are there were made by an embedding model with {size} dimensions, "
            f"and the configured one has {wanted}."
        )


def let_threads_take_turns() -> None:
    """Have embedded Qdrant open its files for whichever thread has the guard.

    Left to itself it asks SQLite first whether that is all right, over a connection that it does not close.
    """
    from qdrant_client.local.persistence import CollectionPersistence

    CollectionPersistence.CHECK_SAME_THREAD = False


@contextmanager
def without_advice() -> Iterator[None]:
    """Keeps embedded Qdrant from warning that it makes no use of the indexes that Mem0 asks it for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect", category=UserWarning)
        yield
