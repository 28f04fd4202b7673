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

_CREATE_ON_POSTGRESQL = (
    "CREATE FUNCTION memory_stems(words text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ARRAY("
    "SELECT coalesce((ts_lexize('pg_catalog.english_stem', word))[1], word)"
    " FROM unnest(string_to_array(words, ' ')) AS word)",
    "ALTER TABLE memories ADD COLUMN stems text[] NOT NULL GENERATED ALWAYS AS (memory_stems(words)) STORED",
)
"""The stems of each memory's words; no stem is known for words in other scripts, which stay as they are."""

_DROP_ON_POSTGRESQL = ("ALTER TABLE memories DROP COLUMN stems", "DROP FUNCTION memory_stems(text)")

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
    _on("sqlite", *_DROP_ON_SQLITE)
    op.add_column("memories", sa.Column("words", sa.Text, nullable=False, server_default=""))
    _prepare_words(op.get_bind())
    _on("sqlite", *_CREATE_ON_SQLITE, _FILL_ON_SQLITE)
    _on("postgresql", *_CREATE_ON_POSTGRESQL)


def downgrade() -> None:
    _on("postgresql", *_DROP_ON_POSTGRESQL)
    _on("sqlite", *_DROP_ON_SQLITE)
    op.drop_column("memories", "words")
    _on("sqlite", *_OLD_INDEX_ON_SQLITE)


def _prepare_words(connection: sa.Connection) -> None:
    batch = sa.text("SELECT place, fact FROM memories WHERE place > :after ORDER BY place LIMIT :limit")
    update = sa.text("UPDATE memories SET words = :words WHERE place = :place")
    after = -1
    while rows := connection.execute(batch, {"after": after, "limit": _BATCH}).all():
        connection.execute(update, [{"place": place, "words": index_text(fact)} for place, fact in rows])
        after = rows[-1].place


def _on(dialect: str, *statements: str) -> None:
    if op.get_bind().dialect.name == dialect:
        for statement in statements:
            op.get_bind().exec_driver_sql(statement)
