"""Requests to stop turns whose log has no header, on PostgreSQL."""

from alembic import op

revision = "0012"
down_revision = "0011"
oldest_compatible = "0008"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE UNLOGGED TABLE stop_requests (turn_id text NOT NULL, stop text NOT NULL,"
            " CONSTRAINT pk_stop_requests PRIMARY KEY (turn_id))"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TABLE stop_requests")
