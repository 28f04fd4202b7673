"""Full-text search in memories on PostgreSQL: an array of stems beside each memory's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, text

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.full_text import FullText, Hit
from adapters.sql.tables import PLACES_PER_USER, Instant
from domain.conversation import UserId

_SEARCH: Final = PrecompiledStatement(
    text(
        "WITH asked AS MATERIALIZED ("
        " SELECT CAST(number - 1 AS integer) AS key, (memory_stems(word))[1] AS stem"
        " FROM unnest(CAST(:words AS text[])) WITH ORDINALITY AS words (word, number)"
        ") SELECT memories.place, memories.importance, CAST(:now AS bigint) - memories.created_at,"
        " (SELECT CAST(sum(CAST(1 AS bigint) << asked.key) AS bigint)"
        " FROM asked WHERE asked.stem = ANY (memories.stems))"
        " FROM memory_owners JOIN memories ON memories.user_id = memory_owners.user_id"
        " AND memories.place < (memory_owners.number + 1) * CAST(:each AS bigint)"
        " AND memories.place > memory_owners.number * CAST(:each AS bigint)"
        " + greatest(0, memory_owners.last_seq - CAST(:newest AS bigint))"
        " WHERE memory_owners.user_id = :user AND memories.stems && ARRAY(SELECT stem FROM asked)"
    ).bindparams(bindparam("now", type_=Instant), each=PLACES_PER_USER)
)
"""A `Hit` for each memory with at least one of the words."""


@dataclass(frozen=True)
class PostgresFullText(FullText):
    """Compares the stems of the words with those of each of the user's memories, which are neighbours in the table.

    An index of the words of all users would cost more than it saves, and would keep deleted words longer. The stems are
    a generated column; migration 0005 defines it. PostgreSQL's own parser is not used, because it drops emoji and
    splits words at other places than `domain.words`.
    """

    max_searched_memories: int = 2_000
    """Only so many of a user's newest memories are searched."""

    def search(self, connection: Connection, user_id: UserId, words: Sequence[str], now: datetime) -> Sequence[Hit]:
        values = {"user": user_id, "words": list(words), "now": now, "newest": self.max_searched_memories}
        hits: list[Hit] = _SEARCH.execute_raw(connection, values).fetchall()
        return hits

    def purge_deleted(self, connection: Connection) -> None:
        """Do nothing: there is no index, and the rows leave the files with the next vacuum."""
