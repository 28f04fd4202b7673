"""Retracted turns, titles of conversations, and turn ids that clients choose."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
oldest_compatible = "0008"
"""Earlier versions show retracted turns, and turns with a chosen id under another one."""


def upgrade() -> None:
    op.add_column("turns", sa.Column("retracted_by", sa.Text))
    op.add_column("conversations", sa.Column("retracted", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("conversations", sa.Column("title", sa.Text))
    op.create_table(
        "chosen_turn_ids",
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("chosen_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("turn_id", name="pk_chosen_turn_ids"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_chosen_turn_ids_turns", ondelete="CASCADE"),
        sa.UniqueConstraint("chosen_id", "user_id", name="uq_chosen_turn_ids_chosen_id_user_id"),
    )


def downgrade() -> None:
    op.drop_table("chosen_turn_ids")
    op.drop_column("conversations", "title")
    op.drop_column("conversations", "retracted")
    op.drop_column("turns", "retracted_by")
