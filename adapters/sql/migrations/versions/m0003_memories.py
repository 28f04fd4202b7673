"""Facts about users, and their full-text index."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_FULL_TEXT_ON_SQLITE = (
    "CREATE VIRTUAL TABLE memory_words USING fts5"
    "(fact, content = '', columnsize = 0, tokenize = 'porter unicode61 remove_diacritics 2')",
    "CREATE TRIGGER memory_words_stored AFTER INSERT ON memories BEGIN"
    " INSERT INTO memory_words (rowid, fact) VALUES (new.place, new.fact); END",
    "CREATE TRIGGER memory_words_forgotten AFTER DELETE ON memories BEGIN"
    " INSERT INTO memory_words (memory_words, rowid, fact) VALUES ('delete', old.place, old.fact); END",
    "CREATE TRIGGER memory_words_corrected AFTER UPDATE OF fact ON memories BEGIN"
    " INSERT INTO memory_words (memory_words, rowid, fact) VALUES ('delete', old.place, old.fact);"
    " INSERT INTO memory_words (rowid, fact) VALUES (new.place, new.fact); END",
)
"""The index as of this revision; `sqlite.full_text.CREATE_INDEX` may have changed since."""

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
        for statement in _FULL_TEXT_ON_SQLITE:
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.get_bind().exec_driver_sql("DROP TABLE memory_words")
    op.drop_table("memories")
    op.drop_table("memory_owners")
