"""Leases and usage of turns, memory epochs, and claims on a user's memories."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("users", sa.Column("memory_epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("memory_epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("lease_expires_at", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("prompt_tokens", sa.BigInteger))
    op.add_column("turns", sa.Column("completion_tokens", sa.BigInteger))
    op.add_column("turns", sa.Column("usage_estimated", sa.Boolean))
    op.create_table(
        "memory_users",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("claim", sa.Text),
        sa.Column("claim_expires_at", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unsettled_until", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("forget_at", sa.BigInteger),
        sa.Column("forget_attempts", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("user_id", name="pk_memory_users"),
    )
    op.execute("INSERT INTO memory_users (user_id, forget_at) SELECT user_id, 0 FROM forgetting")
    op.drop_table("forgetting")


def downgrade() -> None:
    op.create_table(
        "forgetting",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_forgetting"),
    )
    op.execute("INSERT INTO forgetting (user_id) SELECT user_id FROM memory_users WHERE forget_at IS NOT NULL")
    op.drop_table("memory_users")
    for column in ("usage_estimated", "completion_tokens", "prompt_tokens", "lease_expires_at", "memory_epoch"):
        op.drop_column("turns", column)
    op.drop_column("users", "memory_epoch")
