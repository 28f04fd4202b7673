"""`smart-chatbot backup FILE`: copy the database of a service that may be running."""

from pathlib import Path

from domain.errors import Unusable
from entrypoints.settings import Settings


def backup(settings: Settings, file: Path) -> str:
    """Copy the configured database to a new file; return a sentence with the outcome.

    Raises:
        Unusable: There is nothing to copy, a copy would be incomplete, or it cannot be made.
    """
    if settings.database_backend == "none":
        raise Unusable("There is nothing to back up: neither history nor memory uses a database.")
    embedded_store = settings.data_dir / "mem0" / "qdrant"
    if settings.memory_backend == "mem0" and settings.mem0_vector_store is None and embedded_store.exists():
        raise Unusable(
            f"Mem0's store in {embedded_store} cannot be copied while the service runs: stop it and copy "
            f"{settings.data_dir} as a whole, or set MEM0_VECTOR_STORE."
        )
    from adapters.sql.databases import database_at

    copied = database_at(settings.database).backup(file.absolute())
    elsewhere = settings.memory_backend in ("mem0", "mem0_platform")
    note = "; memories are in Mem0's store, which needs a backup of its own" if elsewhere else ""
    turns = "1 turn" if copied.turns == 1 else f"{copied.turns:,} turns"
    return f"Backed up {turns} to {file} ({copied.size / 1e6:,.1f} MB){note}."
