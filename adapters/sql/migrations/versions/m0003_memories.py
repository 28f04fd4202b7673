"""Facts about users, and the full-text index of them."""

import sqlalchemy as sa
from alembic import op

from adapters.sql import full_text_sqlite

revision = "0003"
down_revision = "0002"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "memory_owners",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_memory_owners"),
        sa.UniqueConstraint("user_id", name="uq_memory_owners_user_id"),
    )
    op.create_table(
        "memories",
        sa.Column("place", _NUMBER, nullable=False, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("importance", sa.Double, nullable=False),
        sa.Column("fact", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_memories"),
        sa.UniqueConstraint("id", name="uq_memories_id"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for statement in full_text_sqlite.MAKE:
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.get_bind().exec_driver_sql(full_text_sqlite.DROP)
    op.drop_table("memories")
    op.drop_table("memory_owners")
