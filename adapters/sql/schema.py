"""The schema's version, and how a database gets there.

Alembic takes longer to import than a start may take, so it is imported only where there is something to migrate.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from adapters.sql.sqlite.full_text import MAKE
from adapters.sql.tables import metadata

HEAD: Final = "0004"
"""The latest migration."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def create(connection: Connection) -> None:
    """Make the schema in an empty SQLite database: what all migrations together make."""
    metadata.create_all(connection, checkfirst=False)
    for statement in MAKE:
        connection.exec_driver_sql(statement)
    connection.execute(
        text(
            "CREATE TABLE alembic_version"
            " (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": HEAD})


def upgrade(connection: Connection, version: str) -> bool:
    """Run the migrations behind `version`. False, and nothing is done, where we do not know that version."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if version and version not in {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}:
        return False
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")
    return True
