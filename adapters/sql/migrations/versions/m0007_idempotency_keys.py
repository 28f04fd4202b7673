"""Idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("turn_id", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_idempotency_keys_turns", ondelete="CASCADE"),
        sa.UniqueConstraint("name", name="uq_idempotency_keys_name"),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
