"""The schema's version, and the steps that bring a database to it.

Alembic is imported only if there is something to migrate: importing it takes longer than a start should.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from adapters.sql.tables import metadata
from domain.errors import Unusable

HEAD: Final = "0012"
"""The latest migration."""

OLDEST_COMPATIBLE: Final = "0008"
"""Its `oldest_compatible`: the oldest version of this service that can work with the schema."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def create(connection: Connection, create_index: Callable[[Connection], None]) -> None:
    """Create the current schema in an empty database, with the same result as running all migrations.

    `create_index` creates the full-text index of `tables.memories`.
    """
    metadata.create_all(connection, checkfirst=False)
    create_index(connection)
    connection.execute(
        text(
            "CREATE TABLE alembic_version"
            " (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": HEAD})
    connection.execute(text("CREATE TABLE schema_compatibility (oldest_version TEXT NOT NULL)"))
    connection.execute(text("INSERT INTO schema_compatibility VALUES (:version)"), {"version": OLDEST_COMPATIBLE})


def bring_up_to_date(connection: Connection, version: str, name: str) -> None:
    """Run the migrations after `version`, or all of them if it is empty.

    Does nothing if a newer version of this service has made the schema, and this one can work with it.

    Raises:
        Unusable: the schema excludes this version of the service, or is unknown. Nothing was changed.
    """
    if not is_outdated(connection, version, name):
        return
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")
    connection.execute(
        text("UPDATE schema_compatibility SET oldest_version = :version"), {"version": OLDEST_COMPATIBLE}
    )


def is_outdated(connection: Connection, version: str, name: str) -> bool:
    """Return whether there are migrations after `version`, which is empty before the first one.

    Raises:
        Unusable: the schema excludes this version of the service, or is unknown.
    """
    if version == HEAD:
        return False
    from alembic.script import ScriptDirectory

    if not version or version in {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}:
        return True
    if not _is_compatible(connection):
        raise newer(version, name)
    return False


def _is_compatible(connection: Connection) -> bool:
    """Return whether a newer version of this service has made the schema such that this one can work with it."""
    if not inspect(connection).has_table("schema_compatibility"):
        return False
    return bool(connection.execute(text("SELECT oldest_version FROM schema_compatibility")).scalar_one() <= HEAD)


def require_current(version: str | None, name: str) -> None:
    """Raise Unusable unless the version is the latest. It is None if the database does not have this schema."""
    if version is None:
        raise Unusable(f"There is no database of this service at {name}.")
    if version > HEAD:
        raise newer(version, name)
    if version < HEAD:
        raise Unusable(
            f"An earlier version of this service made the database {name}: run the command `migrate` with its URL as "
            "DATABASE_URL first."
        )


def newer(version: str | None, name: str) -> Unusable:
    """Return the error for a version that is unknown."""
    return Unusable(
        f"A newer version of this service, or another program, made the database {name} (schema {version}): "
        "use that version, restore a backup, or check DATABASE_URL."
    )
