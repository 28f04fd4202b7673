"""`smart-chatbot migrate`: create or upgrade the database schema."""

from entrypoints.settings import Settings


def migrate(settings: Settings) -> str:
    """Upgrade the schema of the configured database; return a sentence with the outcome.

    Raises:
        Unusable: The database cannot be opened or upgraded.
    """
    if settings.database_backend == "none":
        return "Nothing to migrate: neither history nor memory uses a database."
    from adapters.sql.databases import database_at

    database_at(settings.database).migrate()
    return "The database is up to date."
