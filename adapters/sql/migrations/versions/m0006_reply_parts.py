"""Running replies saved in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_OLD_CONTEXT = "status <> 'in_progress' AND reply <> ''"
_CONTEXT = "status <> 'in_progress' AND (reply <> '' OR reply_number IS NOT NULL)"

_JOIN = {
    "sqlite": "UPDATE turns SET reply = (SELECT group_concat(text, '') FROM (SELECT text FROM reply_parts"
    " WHERE reply_parts.reply_number = turns.reply_number ORDER BY start)) || reply WHERE reply_number IS NOT NULL",
    "postgresql": "UPDATE turns SET reply = (SELECT string_agg(text, '' ORDER BY start) FROM reply_parts"
    " WHERE reply_parts.reply_number = turns.reply_number) || reply WHERE reply_number IS NOT NULL",
}


def upgrade() -> None:
    op.create_table(
        "reply_parts",
        sa.Column("reply_number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("start", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("reply_number", "start", name="pk_reply_parts"),
    )
    op.add_column("turns", sa.Column("reply_number", sa.BigInteger))
    _index_context(_CONTEXT)


def downgrade() -> None:
    op.execute(_JOIN[op.get_bind().dialect.name])
    _index_context(_OLD_CONTEXT)
    op.drop_column("turns", "reply_number")
    op.drop_table("reply_parts")


def _index_context(condition: str) -> None:
    op.drop_index("ix_turns_context", "turns")
    op.create_index(
        "ix_turns_context",
        "turns",
        ["user_id", "conversation_id", "seq"],
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )
