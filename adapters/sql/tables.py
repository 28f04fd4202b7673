"""The tables, for every SQL dialect."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
    text,
)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A point in time as whole microseconds since 1970 UTC: exact, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else instant(value)


def instant(value: int) -> datetime:
    """Return the point in time of a value as the driver returns it."""
    return EPOCH + timedelta(microseconds=value)


def microseconds(moment: datetime) -> int:
    """Return a point in time as it is stored, for statements that bypass `Instant`."""
    return (moment - EPOCH) // _MICROSECOND


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
    Column("memory_epoch", BigInteger, nullable=False, server_default="0"),
)
"""Users with turns. Incrementing `last_seq` gives a turn its position, and serialises the begins of one user.

`memory_epoch` is incremented when the user's memories are forgotten: turns of an earlier epoch are not remembered.
"""

conversations: Final = Table(
    "conversations",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("retracted", BigInteger, nullable=False, server_default="0"),
    Column("title", Text),
    ForeignKeyConstraint(["user_id"], ["users.id"]),
    Index(None, "user_id", "last_seq"),
)
"""Summaries of conversations, so that listing them reads one turn of each.

`turns` counts all turns, and `retracted` those of them that are retracted. `title` is null unless the user has set one.
"""

CONTEXT_TURNS: Final = text("status <> 'in_progress' AND (reply <> '' OR reply_number IS NOT NULL)")
"""Turns that can be part of a prompt. The query must repeat the index's condition literally for SQLite to use it."""

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
    Column("memory_epoch", BigInteger, nullable=False, server_default="0"),
    Column("lease_expires_at", Instant, nullable=False, server_default="0"),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("usage_estimated", Boolean),
    Column("reply_number", BigInteger),
    Column("retracted_by", Text),
    ForeignKeyConstraint(["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"]),
    UniqueConstraint("user_id", "seq"),
    Index(None, "user_id", "conversation_id", "seq"),
)
"""`seq` is a turn's position among all turns of its user; `memory_epoch` is the user's when the turn began.

`reply` is the whole reply, or, if there is a `reply_number`, the rest after the parts with that number. `retracted_by`
is the id of the later turn that has taken this one's place, null if there is none.
"""

# The migrations make these indexes partial on PostgreSQL too. Declaring that here would import its dialect at start-up.
Index("ix_turns_context", turns.c.user_id, turns.c.conversation_id, turns.c.seq, sqlite_where=CONTEXT_TURNS)

RUNNING_TURNS: Final = text("status = 'in_progress'")
"""Turns that have not ended."""

Index("ix_turns_running", turns.c.id, sqlite_where=RUNNING_TURNS)

reply_parts: Final = Table(
    "reply_parts",
    metadata,
    Column("reply_number", BigInteger, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)
"""Replies that were saved while they were generated, in parts. `start` is a part's place in the reply, in characters.

Parts stay as they were written: copying them into the turn at its end would write the text again. They are keyed by a
number, not by the turn's id, so that running replies are neighbours in the index and a save changes few of its pages.
"""

REPLY_NUMBERS: Final = Sequence("reply_numbers", metadata=metadata)
"""The numbers of replies, in databases to which several processes write."""

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
"""The outbox: completed turns that long-term memory still has to remember. A null `due_at` means given up."""

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("expires_at", Instant, nullable=False),
    ForeignKeyConstraint(["turn_id"], ["turns.id"], ondelete="CASCADE"),
    UniqueConstraint("name"),
    Index(None, "expires_at"),
)
"""The turns that were begun by requests with an idempotency key, so that a repeated request finds its turn.

`name` and `fingerprint` are digests, see `domain/idempotency.py`. From `expires_at` on, a key names nothing. Deleting a
turn deletes its row, which the primary key finds.
"""

chosen_turn_ids: Final = Table(
    "chosen_turn_ids",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("chosen_id", Text, nullable=False),
    ForeignKeyConstraint(["turn_id"], ["turns.id"], ondelete="CASCADE"),
    UniqueConstraint("chosen_id", "user_id"),
)
"""The turns whose client has chosen an id, which is unique within the user.

A table of its own: adding a column with an index to `turns` would keep an earlier version that runs meanwhile waiting.
"""

memory_users: Final = Table(
    "memory_users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("claim", Text),
    Column("claim_expires_at", Instant, nullable=False, server_default="0"),
    Column("unsettled_until", Instant, nullable=False, server_default="0"),
    Column("forget_at", Instant),
    Column("forget_attempts", BigInteger, nullable=False, server_default="0"),
)
"""Users for whom long-term memory has something to do; others have no row.

`claim` is the token of the worker that may change the user's memories until `claim_expires_at`. Until
`unsettled_until`, a write may arrive that the memory store did not confirm. `forget_at` is when the next attempt to
forget the user is due; null if the user is not to be forgotten.
"""

PROBE_WRITE: Final = (
    text("INSERT INTO users (id, last_seq) VALUES ('', 0)"),
    text("DELETE FROM users WHERE id = ''"),
)
"""A write that changes nothing: no user has an empty id. An update to the same values would not reach the disk."""

RELEASE_LEASES: Final = (
    text("UPDATE turns SET lease_expires_at = 0 WHERE status = 'in_progress'"),
    text(
        "UPDATE memory_users SET claim = NULL, claim_expires_at = 0, unsettled_until = CASE"
        " WHEN unsettled_until >= claim_expires_at OR unsettled_until >= :settled_at THEN unsettled_until"
        " WHEN claim_expires_at < :settled_at THEN claim_expires_at ELSE :settled_at END"
    ).bindparams(bindparam("settled_at", type_=Instant)),
)
"""Run when a database that serves a single process is opened: the leases of earlier processes are void.

A memory write of theirs may still arrive until `settled_at`, though not after its claim would have expired.
"""

_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")
"""A key that the database generates if none is given. SQLite does so only for INTEGER."""

memory_owners: Final = Table(
    "memory_owners",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("user_id", Text, nullable=False, unique=True),
    Column("last_seq", BigInteger, nullable=False),
)
"""Users that have memories. Incrementing `last_seq` allocates a memory's place and locks the row, which serializes the
stores of one user."""

PLACES_PER_USER: Final = 2**32
"""Size of each user's range of places, and so the limit on memories ever stored for a user."""

memories: Final = Table(
    "memories",
    metadata,
    Column("place", _NUMBER, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("user_id", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("importance", Double, nullable=False),
    Column("fact", Text, nullable=False),
    Column("words", Text, nullable=False, server_default=""),
)
"""Facts about users. `place` is the user's number × PLACES_PER_USER + the memory's sequence number, so that a user's
memories are contiguous in the table and in the full-text index. The texts are the last columns, so that the others can
be read without them.

`words` is the fact as the full-text index gets it. It is stored so that exactly this text can be removed from the
index, even if a later version prepares texts differently.
"""

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("revoked_at", Instant),
)
"""The API keys of services. `digest` is the SHA-256 of a key's secret, see `domain/api_key.py`."""
