"""`smart-chatbot migrate`: create or upgrade the database schema."""

import asyncio

from adapters.daemon_threads import run_in_daemon_thread
from entrypoints.settings import Settings


def migrate(settings: Settings) -> str:
    """Upgrade the schema of the configured database; return a sentence with the outcome.

    Raises:
        Unusable: The database cannot be opened or upgraded.
    """
    if settings.database_backend == "none":
        return "Nothing to migrate: neither history nor memory uses a database."
    from adapters.sql.databases import database_at

    # In a thread: while the main thread waits for another program's lock, it could not handle signals.
    asyncio.run(run_in_daemon_thread(database_at(settings.database).migrate, name="migrate"))
    return "The database is up to date."
