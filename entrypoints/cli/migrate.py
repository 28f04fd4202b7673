"""`smart-chatbot migrate`: create or upgrade the database schema."""

import asyncio
from typing import Final

from adapters.daemon_threads import run_in_daemon_thread
from entrypoints.program import program
from entrypoints.settings import Settings

NOTHING: Final = "Nothing to migrate: neither history nor memory uses a database."


def needs_migration(settings: Settings) -> tuple[bool, str]:
    """Return whether `migrate` has something to do, and a sentence that says so. Changes nothing.

    Raises:
        Unusable: The database cannot be used.
    """
    if settings.database_backend == "none":
        return False, NOTHING
    from adapters.sql.databases import database_at

    database = database_at(settings.database)
    if asyncio.run(run_in_daemon_thread(database.is_outdated, name="migrate")):
        return True, f"The database {database.name} has to be migrated: run `{program()} migrate`."
    return False, f"The database {database.name} is up to date."


def migrate(settings: Settings) -> str:
    """Upgrade the schema of the configured database; return a sentence with the outcome.

    Raises:
        Unusable: The database cannot be opened or upgraded.
    """
    if settings.database_backend == "none":
        return NOTHING
    from adapters.sql.databases import database_at

    # In a thread: while the main thread waits for another program's lock, it could not handle signals.
    asyncio.run(run_in_daemon_thread(database_at(settings.database).migrate, name="migrate"))
    return "The database is up to date."
