"""Full-text search in memories, as SQLite has it (FTS5).

The index holds no texts, only which words are in which place; triggers keep it up to date. A user's places are next to
each other, and so are their entries under each word: a search costs by what the user has. FTS5's own relevance (bm25)
would not, for it counts every user's entries under each word.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, bindparam, text

from adapters.sql.compiled import Compiled
from adapters.sql.tables import MEMORIES_OF_ONE, Instant

INDEX: Final = "memory_words"

CONSIDERED: Final = 2_000
"""How many of a user's newest memories are searched: replies of other users wait for the same thread."""

_TAKE_OUT: Final = "INSERT INTO memory_words (memory_words, rowid, fact) VALUES ('delete', old.place, old.fact)"
_PUT_IN: Final = "INSERT INTO memory_words (rowid, fact) VALUES (new.place, new.fact)"

MAKE: Final = (
    "CREATE VIRTUAL TABLE memory_words USING fts5"
    "(fact, content = '', columnsize = 0, tokenize = 'porter unicode61 remove_diacritics 2')",
    f"CREATE TRIGGER memory_words_stored AFTER INSERT ON memories BEGIN {_PUT_IN}; END",
    f"CREATE TRIGGER memory_words_forgotten AFTER DELETE ON memories BEGIN {_TAKE_OUT}; END",
    f"CREATE TRIGGER memory_words_corrected AFTER UPDATE OF fact ON memories BEGIN {_TAKE_OUT}; {_PUT_IN}; END",
)
"""The index, for a table `memories` that is empty, and what keeps it up to date."""

FIND: Final = Compiled(
    text(
        "SELECT asked.key, memories.place, memories.importance, :now - memories.created_at"
        " FROM memory_owners CROSS JOIN json_each(:phrases) AS asked CROSS JOIN memory_words CROSS JOIN memories"
        " WHERE memory_owners.user_id = :user AND memory_words MATCH asked.value"
        " AND memory_words.rowid > memory_owners.number * :each + max(0, memory_owners.last_seq - :newest)"
        " AND memory_words.rowid < memory_owners.number * :each + :each"
        " AND memories.place = memory_words.rowid AND memories.user_id = :user"
    ).bindparams(bindparam("now", type_=Instant), each=MEMORIES_OF_ONE, newest=CONSIDERED)
)
"""Each of the phrases, by its number, with each of the user's memories that has it: place, importance, age in
microseconds. The order of the joins is given: for who has no memories, nothing is looked up."""


def phrases(words: Sequence[str]) -> str:
    """The words as FIND takes them, quoted: none of them is an operator."""
    return json.dumps([_phrase(word) for word in words])


def _phrase(word: str) -> str:
    quoted = '"' + word.replace('"', '""') + '"'
    # The index folds letter by letter, so that a ß stays what it is, where we ask for ss.
    return f"{quoted} OR {quoted.replace('ss', 'ß')}" if "ss" in word else quoted


_MERGE: Final = text("INSERT INTO memory_words (memory_words) VALUES ('optimize')")


@contextmanager
def rid_of_deleted(connection: Connection) -> Iterator[None]:
    """Have what is deleted or reworded inside leave the index in the same transaction: 20 ms a megabyte of index.

    FTS5 only notes what is deleted, and leaves the words where they are until they are merged with the notes. Where
    there are many parts, a newer SQLite (3.46) merges them to a single one that has both, and takes that for done; so
    there must be one part alone when the notes come. Its option `secure-delete` (3.42) is no better: it leaves words in
    the tree above the pages.
    """
    connection.execute(_MERGE)
    yield
    connection.execute(_MERGE)
