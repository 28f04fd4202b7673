"""Which workers are alive, and which deletions they have to acknowledge, on PostgreSQL."""

from alembic import op

revision = "0011"
down_revision = "0010"
oldest_compatible = "0008"
"""Earlier versions are not waited for, so their readers may receive deleted text for some milliseconds."""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE UNLOGGED TABLE live_workers (worker text NOT NULL, expires_at bigint NOT NULL,"
            " CONSTRAINT pk_live_workers PRIMARY KEY (worker))"
        )
        op.execute(
            "CREATE UNLOGGED TABLE unacknowledged_deletions (worker text NOT NULL, deletion text NOT NULL,"
            " user_id text NOT NULL, conversation_id text, expires_at bigint NOT NULL,"
            " CONSTRAINT pk_unacknowledged_deletions PRIMARY KEY (worker, deletion))"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TABLE live_workers, unacknowledged_deletions")
