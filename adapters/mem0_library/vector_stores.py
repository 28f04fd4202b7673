"""Mem0's vector stores: embedded Qdrant, a Qdrant server, or PostgreSQL with pgvector."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from typing import Any, Final

import structlog

from adapters.mem0_library.malloc import release_free_memory
from adapters.mem0_library.store_url import CONNECT_TIMEOUT
from domain.errors import Unusable

MAX_VACUUM_BYTES: Final = 16 * 2**20
"""After an erasure, files of embedded Qdrant up to this size are rewritten, which takes 10 ms per MiB.

SQLite overwrites deleted rows, but not the copies left in the unused part of a page when it moved a row to another
page. In larger files they stay until SQLite reuses the space or the operator runs VACUUM.
"""

MIN_COMPACTED_POINTS: Final = 64
"""So many deleted points of embedded Qdrant stay in memory, at about 5 kB each, before it reads its file again."""


_IGNORED_WARNINGS: Final = (
    "Payload indexes have no effect",
    "Api key is used with an insecure connection",
)
"""Beginnings of warnings."""


class Store:
    """Lifecycle of a vector store, which Mem0 leaves to its users."""

    lock: AbstractContextManager[Any] = nullcontext()
    """Held by a thread while it works on the store. The default is none: the store is thread-safe."""

    @staticmethod
    def of(memory: Any) -> "Store":
        """Return the store of an `AsyncMemory`. Providers that are not known to be thread-safe get a lock."""
        provider = memory.config.vector_store.provider
        if provider == "pgvector":
            return Postgres(memory)
        if provider == "qdrant":
            return EmbeddedQdrant(memory) if memory.vector_store.is_local else QdrantServer(memory)
        return SerializedStore(memory)

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def prepare(self) -> None:
        """Create tables and indexes before the first call. Any error ends the start."""

    def erase(self) -> None:
        """Remove deleted data from the store's files. Servers are left to do it in their own time."""

    def close(self) -> None:
        """Close connections and files."""


class SerializedStore(Store):
    def __init__(self, memory: Any) -> None:
        super().__init__(memory)
        self.lock = threading.RLock()


class QdrantServer(Store):
    def prepare(self) -> None:
        self._check_dimensions()
        compare_versions(self.memory.vector_store.client)

    def _check_dimensions(self) -> None:
        vectors = self.memory.vector_store.client.get_collection(self.memory.collection_name).config.params.vectors
        _require_dimensions(getattr(vectors, "size", None), self.memory)

    def close(self) -> None:
        self.memory.vector_store.client.close()


class EmbeddedQdrant(QdrantServer):
    """Qdrant's client on local files: for one process, and one thread at a time.

    A collection is in memory completely, read from its file at the start, and each write changes both. Deleted points
    leave the file but not the memory, so a collection in which they are the majority is read again.
    """

    def __init__(self, memory: Any) -> None:
        super().__init__(memory)
        self.lock = threading.RLock()

    def prepare(self) -> None:
        self._check_dimensions()
        for collection in self._collections.values():
            _erase_deleted_rows(collection)
        self.erase()  # deleted by a process that died before it erased them

    def erase(self) -> None:
        with self.lock:
            for name, collection in self._collections.items():
                sqlite = collection.storage.storage
                ((pages, size),) = sqlite.execute("SELECT * FROM pragma_page_count, pragma_page_size")
                if pages * size <= MAX_VACUUM_BYTES:
                    sqlite.execute("VACUUM")
                deleted = int(collection.deleted.sum())
                if deleted >= max(MIN_COMPACTED_POINTS, len(collection.ids) / 2):
                    self._read_again(name, collection)
        release_free_memory()

    def _read_again(self, name: str, collection: Any) -> None:
        """Replace a collection by one that is read from the same file, which is not changed."""
        fresh = type(collection)(collection.config, str(collection.storage.location.parent))
        fresh.text_indexes = collection.text_indexes
        _erase_deleted_rows(fresh)
        self._collections[name] = fresh
        collection.close()

    def close(self) -> None:
        with self.lock:
            super().close()

    @property
    def _collections(self) -> dict[str, Any]:
        collections: dict[str, Any] = self.memory.vector_store.client._client.collections
        return collections


def compare_versions(client: Any) -> None:
    """Log if Qdrant's client is not made for the version of the server, as far as the server tells it."""
    from qdrant_client.common.version_check import is_compatible

    ours, theirs = version("qdrant-client"), None
    with suppress(Exception):
        theirs = client.info().version
    if theirs and not is_compatible(ours, theirs):
        structlog.get_logger().warning("memory store of another version", client=ours, server=theirs)


def _erase_deleted_rows(collection: Any) -> None:
    """Have SQLite overwrite what is deleted from a collection's file, and write no temporary files."""
    sqlite = collection.storage.storage
    sqlite.execute("PRAGMA secure_delete = ON")
    sqlite.execute("PRAGMA temp_store = MEMORY")


class Postgres(Store):
    def prepare(self) -> None:
        from psycopg import sql  # optional, and imported by Mem0 already

        stores = self.memory.vector_store, self.memory.entity_store
        for store in stores:
            store.connection_pool.timeout = CONNECT_TIMEOUT
        # Of two processes that start at once and both find the extension missing, one would fail to create it.
        with self._advisory_lock():
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
        _require_dimensions(size, self.memory)

    @contextmanager
    def _advisory_lock(self) -> Iterator[None]:
        import psycopg

        with psycopg.connect(self.memory.vector_store.connection_pool.conninfo) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('smart-chatbot: collections of Mem0'))")
            yield

    def close(self) -> None:
        for store in (self.memory.vector_store, self.memory.entity_store):
            store.connection_pool.close()


def _require_dimensions(size: int | None, memory: Any) -> None:
    wanted = memory.config.vector_store.config.embedding_model_dims
    if size is not None and size > 0 and size != wanted:
        raise Unusable(
            f"The stored memories were embedded by a model with {size} dimensions, and the configured one has {wanted}"
            "; check MEM0_EMBEDDING_MODEL, or use another store or DATA_DIR."
        )


def share_sqlite_between_threads() -> None:
    """Let embedded Qdrant open its SQLite files for use by any thread; the store's lock serializes them.

    Left to itself, Qdrant first asks SQLite whether that is safe, over a connection that it never closes.
    """
    from qdrant_client.local.persistence import CollectionPersistence

    CollectionPersistence.CHECK_SAME_THREAD = False


def ignore_warnings() -> None:
    """Suppress warnings of Qdrant's client, which would be lines of text between the JSON of the log.

    They are that embedded Qdrant ignores the payload indexes that Mem0 creates, and that the key is sent without TLS,
    as a URL with `http` says. The client would also warn, in a thread of its own, if it cannot ask a server for its
    version; `QdrantServer.prepare` compares the versions instead.
    """
    from qdrant_client.qdrant_remote import QdrantRemote

    remote: Any = QdrantRemote
    remote._check_compatibility = staticmethod(lambda *_: None)
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
