"""The words by which memories are found, and a full-text index of them instead of the facts."""

import sqlalchemy as sa
from alembic import op

from domain.memory import index_text

revision = "0005"
down_revision = "0004"

_DROP_ON_SQLITE = (
    "DROP TRIGGER memory_words_stored",
    "DROP TRIGGER memory_words_forgotten",
    "DROP TRIGGER memory_words_corrected",
    "DROP TABLE memory_words",
)
_CREATE_ON_SQLITE = (
    "CREATE VIRTUAL TABLE memory_words USING fts5(words, content = '', columnsize = 0, tokenize = 'porter ascii')",
    "CREATE TRIGGER memory_words_stored AFTER INSERT ON memories BEGIN"
    " INSERT INTO memory_words (rowid, words) VALUES (new.place, new.words); END",
    "CREATE TRIGGER memory_words_forgotten AFTER DELETE ON memories BEGIN"
    " INSERT INTO memory_words (memory_words, rowid, words) VALUES ('delete', old.place, old.words); END",
    "CREATE TRIGGER memory_words_corrected AFTER UPDATE OF words ON memories BEGIN"
    " INSERT INTO memory_words (memory_words, rowid, words) VALUES ('delete', old.place, old.words);"
    " INSERT INTO memory_words (rowid, words) VALUES (new.place, new.words); END",
)
_FILL_ON_SQLITE = "INSERT INTO memory_words (rowid, words) SELECT place, words FROM memories"
"""The index as of this revision; `sqlite.full_text.CREATE_INDEX` may have changed since."""

_OLD_INDEX_ON_SQLITE = (
    "CREATE VIRTUAL TABLE memory_words USING fts5"
    "(fact, content = '', columnsize = 0, tokenize = 'porter unicode61 remove_diacritics 2')",
    "CREATE TRIGGER memory_words_stored AFTER INSERT ON memories BEGIN"
    " INSERT INTO memory_words (rowid, fact) VALUES (new.place, new.fact); END",
    "CREATE TRIGGER memory_words_forgotten AFTER DELETE ON memories BEGIN"
    " INSERT INTO memory_words (memory_words, rowid, fact) VALUES ('delete', old.place, old.fact); END",
    "CREATE TRIGGER memory_words_corrected AFTER UPDATE OF fact ON memories BEGIN"
    " INSERT INTO memory_words (memory_words, rowid, fact) VALUES ('delete', old.place, old.fact);"
    " INSERT INTO memory_words (rowid, fact) VALUES (new.place, new.fact); END",
    "INSERT INTO memory_words (rowid, fact) SELECT place, fact FROM memories",
)
_BATCH = 1_000


def upgrade() -> None:
    _on_sqlite(*_DROP_ON_SQLITE)
    op.add_column("memories", sa.Column("words", sa.Text, nullable=False, server_default=""))
    _prepare_words(op.get_bind())
    _on_sqlite(*_CREATE_ON_SQLITE, _FILL_ON_SQLITE)


def downgrade() -> None:
    _on_sqlite(*_DROP_ON_SQLITE)
    op.drop_column("memories", "words")
    _on_sqlite(*_OLD_INDEX_ON_SQLITE)


def _prepare_words(connection: sa.Connection) -> None:
    batch = sa.text("SELECT place, fact FROM memories WHERE place > :after ORDER BY place LIMIT :limit")
    update = sa.text("UPDATE memories SET words = :words WHERE place = :place")
    after = -1
    while rows := connection.execute(batch, {"after": after, "limit": _BATCH}).all():
        connection.execute(update, [{"place": place, "words": index_text(fact)} for place, fact in rows])
        after = rows[-1].place


def _on_sqlite(*statements: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for statement in statements:
            op.get_bind().exec_driver_sql(statement)
