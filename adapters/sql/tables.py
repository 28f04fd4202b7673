"""The tables, for every database we speak to."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970 UTC: exact, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

users: Final = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
)
"""Who has turns. Raising `last_seq` gives a turn its place, and makes begins of one user wait for each other."""

conversations: Final = Table(
    "conversations",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    ForeignKeyConstraint(["user_id"], ["users.id"]),
    Index(None, "user_id", "last_seq"),
)
"""The conversations in outline, so that listing them reads no turns."""

CONTEXT_TURNS: Final = text("status <> 'in_progress' AND reply <> ''")
"""The turns that a model may get to see. Literally the same in index and query, else SQLite does not use the index."""

turns: Final = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("user_message", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    ForeignKeyConstraint(["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"]),
    UniqueConstraint("user_id", "seq"),
    Index(None, "user_id", "conversation_id", "seq"),
)
"""`seq` is a turn's place among all turns of its user."""

# Partial on PostgreSQL too, by the migrations: saying so here as well would load its dialect at every start.
Index("ix_turns_context", turns.c.user_id, turns.c.conversation_id, turns.c.seq, sqlite_where=CONTEXT_TURNS)

RUNNING_TURNS: Final = text("status = 'in_progress'")
"""The turns that have not ended."""

Index("ix_turns_running", turns.c.id, sqlite_where=RUNNING_TURNS)

remembering: Final = Table(
    "remembering",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("due_at", Instant),
    Column("attempts", BigInteger, nullable=False),
    ForeignKeyConstraint(["turn_id"], ["turns.id"], ondelete="CASCADE"),
    Index(None, "due_at"),
    Index(None, "user_id"),
)
"""Completed turns that long-term memory is still to remember; without `due_at` those that were given up."""

forgetting: Final = Table("forgetting", metadata, Column("user_id", Text, primary_key=True))
"""Users whom long-term memory is still to forget."""

_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database gives where none is given. SQLite does so for this type only."""

memory_owners: Final = Table(
    "memory_owners",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("user_id", Text, nullable=False, unique=True),
    Column("last_seq", BigInteger, nullable=False),
)
"""Who has memories. Raising `last_seq` gives a memory its place, and makes stores of one user wait for each other."""

MEMORIES_OF_ONE: Final = 2**32
"""How many places each user has for memories."""

memories: Final = Table(
    "memories",
    metadata,
    Column("place", _NUMBER, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("user_id", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("importance", Double, nullable=False),
    Column("fact", Text, nullable=False),
)
"""Facts about users. `place` is the user's number, times MEMORIES_OF_ONE, plus the memory's place among theirs: what a
user has lies together, in the table and in the full-text index. `fact` comes last, so that the rest is read without it.
"""
