"""The outbox of long-term memory: turns to remember, users to forget."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "remembering",
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=True),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("turn_id", name="pk_remembering"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_remembering_turns", ondelete="CASCADE"),
    )
    op.create_index("ix_remembering_due_at", "remembering", ["due_at"])
    op.create_index("ix_remembering_user_id", "remembering", ["user_id"])
    op.create_table(
        "forgetting",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_forgetting"),
    )


def downgrade() -> None:
    op.drop_table("forgetting")
    op.drop_table("remembering")
