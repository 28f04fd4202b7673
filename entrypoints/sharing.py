"""Which of the configured stores several processes of one service can share."""

from domain.errors import Unusable
from entrypoints.settings import Settings


def require_shareable(settings: Settings) -> None:
    """Raise Unusable unless several workers can share the stores, i.e. unless these are servers.

    With a configuration file of Mem0's, which may name any store, the store itself decides.
    """
    if settings.history_backend == "in_memory":
        raise Unusable(
            "HISTORY_BACKEND: several workers cannot share turns in memory; set it to sql, and DATABASE_URL to a "
            "PostgreSQL database, or run one worker"
        )
    if settings.database_backend == "sql" and settings.database_host is None:
        raise Unusable(
            "DATABASE_URL: several workers cannot share an SQLite file; set it to a PostgreSQL database, e.g. "
            "postgresql://user@host/database, or run one worker"
        )
    if settings.memory_backend == "in_memory":
        raise Unusable(
            "MEMORY_BACKEND: several workers cannot share memories in memory; set it to sql, which keeps them in "
            "PostgreSQL with the turns, or run one worker"
        )
    if settings.memory_backend == "mem0" and settings.mem0_vector_store is None and settings.mem0_config_file is None:
        raise Unusable(
            "MEM0_VECTOR_STORE: several workers cannot share Mem0's embedded store; set it to a PostgreSQL database "
            "with pgvector or to a Qdrant server, or run one worker"
        )
