"""Full-text search in memories with FTS5, SQLite's full-text index."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, text

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.full_text import FullText, Hit
from adapters.sql.sqlite.engine import driver
from adapters.sql.sqlite.remnants import Remnants
from adapters.sql.tables import PLACES_PER_USER, Instant
from domain.conversation import UserId

INDEX: Final = "memory_words"
"""The index's table; the names of its internal tables begin with this name."""

_REMOVE_OLD: Final = "INSERT INTO memory_words (memory_words, rowid, words) VALUES ('delete', old.place, old.words)"
_ADD_NEW: Final = "INSERT INTO memory_words (rowid, words) VALUES (new.place, new.words)"

_CREATE_TABLE: Final = (
    "CREATE VIRTUAL TABLE memory_words USING fts5(words, content = '', columnsize = 0, tokenize = 'porter ascii')"
)

_CREATE_INDEX: Final = (
    _CREATE_TABLE,
    f"CREATE TRIGGER memory_words_stored AFTER INSERT ON memories BEGIN {_ADD_NEW}; END",
    f"CREATE TRIGGER memory_words_forgotten AFTER DELETE ON memories BEGIN {_REMOVE_OLD}; END",
    f"CREATE TRIGGER memory_words_corrected AFTER UPDATE OF words ON memories BEGIN {_REMOVE_OLD}; {_ADD_NEW}; END",
)
"""The tokenizer `ascii` takes every character beyond ASCII as part of a word, so the index does not depend on the
version of Unicode that SQLite knows; `porter` stems English.
"""

SEARCH: Final = PrecompiledStatement(
    text(
        "SELECT memories.place, memories.importance, :now - memories.created_at, found.words FROM ("
        " SELECT memory_words.rowid AS place, sum(1 << asked.key) AS words"
        " FROM memory_owners CROSS JOIN json_each(:phrases) AS asked CROSS JOIN memory_words"
        " WHERE memory_owners.user_id = :user AND memory_words MATCH asked.value"
        " AND memory_words.rowid > memory_owners.number * :each + max(0, memory_owners.last_seq - :newest)"
        " AND memory_words.rowid < memory_owners.number * :each + :each"
        " GROUP BY memory_words.rowid"
        ") AS found CROSS JOIN memories ON memories.place = found.place AND memories.user_id = :user"
    ).bindparams(bindparam("now", type_=Instant), each=PLACES_PER_USER)
)
"""A `Hit` for each memory with at least one of the phrases. CROSS JOIN fixes the join order, so that a user without
memories costs one lookup. Memories are read after grouping: reading them takes longer than finding them."""


@dataclass(frozen=True)
class SQLiteFullText(FullText):
    """An FTS5 index that stores no text, only which words occur at which place.

    Each user's places are contiguous, and so are their entries under each word; the cost of a search depends only on
    the user's own memories. FTS5's relevance (bm25) is not used: it counts the entries of all users under each word.
    """

    max_searched_memories: int = 2_000
    """Only so many of a user's newest memories are searched, because all searches share one thread."""

    def search(self, connection: Connection, user_id: UserId, words: Sequence[str], now: datetime) -> Sequence[Hit]:
        phrases = json.dumps([_phrase(word) for word in words])
        values = {"user": user_id, "phrases": phrases, "now": now, "newest": self.max_searched_memories}
        hits: list[Hit] = SEARCH.execute_raw(connection, values).fetchall()
        return hits

    def purge_deleted(self, connection: Connection) -> None:
        Remnants.ANYWHERE.store(connection)


def create_index(connection: Connection) -> None:
    """Create the index of the empty table `memories`, and the triggers that keep it up to date."""
    for statement in _CREATE_INDEX:
        connection.exec_driver_sql(statement)


def _phrase(word: str) -> str:
    """Quote a word, so that FTS5 never takes it for an operator."""
    return '"' + word.replace('"', '""') + '"'


def recreate_index(connection: sqlite3.Connection) -> None:
    """Make a new index of all memories, which contains no deleted words, in place of the present one."""
    connection.execute("DROP TABLE memory_words")
    connection.execute(_CREATE_TABLE)
    connection.execute("INSERT INTO memory_words (rowid, words) SELECT place, words FROM memories")


_MERGED_PAGES: Final = 250
"""Pages of the index that one step merges, which takes about 20 ms."""

Step = Callable[[Connection], bool]
"""Does a part of the work in the current transaction. Returns whether it has to be called again."""


def purge_steps() -> Sequence[Step]:
    """Return the steps that remove deleted words from the index, each in transactions of its own.

    FTS5 only marks entries as deleted; words stay on disk until they are merged with the markers. Merging all segments
    into one is not always sufficient: if the output is not the oldest segment at the time, the markers are kept, and
    the words with them; and a single segment is never merged again. So there is a second round, with a new, empty entry
    as second segment, in which the output is certainly the oldest. In the meantime, entries may be added.

    FTS5's option `secure-delete` (3.42) is not sufficient: it leaves words in the index's interior nodes.
    """
    return (_begin_merge, _merge, _add_segment, _begin_merge, _merge)


def _begin_merge(connection: Connection) -> bool:
    _merge_pages(connection, -_MERGED_PAGES)  # negative: begin to merge all segments into one
    return False


def _merge(connection: Connection) -> bool:
    return _merge_pages(connection, _MERGED_PAGES) > 1  # FTS5 makes one change if there is nothing to merge


def _merge_pages(connection: Connection, pages: int) -> int:
    before = driver(connection).total_changes
    driver(connection).execute("INSERT INTO memory_words (memory_words, rank) VALUES ('merge', ?)", [pages])
    return int(driver(connection).total_changes - before)


def _add_segment(connection: Connection) -> bool:
    """Add an entry and delete it. Place 0 belongs to no memory."""
    driver(connection).execute("INSERT INTO memory_words (rowid, words) VALUES (0, 'x')")
    driver(connection).execute("INSERT INTO memory_words (memory_words, rowid, words) VALUES ('delete', 0, 'x')")
    return False
