"""Requests to stop turns whose log has no header, and a default for an unused column, on PostgreSQL."""

from alembic import op

revision = "0012"
down_revision = "0011"
oldest_compatible = "0008"
"""Version 0.1.0 still writes `live_turns.stop_when_left`, which nothing reads: the column can be dropped by a migration
with which that version cannot work."""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE UNLOGGED TABLE stop_requests (turn_id text NOT NULL, stop text NOT NULL,"
            " CONSTRAINT pk_stop_requests PRIMARY KEY (turn_id))"
        )
        op.execute("ALTER TABLE live_turns ALTER COLUMN stop_when_left SET DEFAULT false")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE live_turns ALTER COLUMN stop_when_left DROP DEFAULT")
        op.execute("DROP TABLE stop_requests")
