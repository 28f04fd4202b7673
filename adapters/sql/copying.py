"""A copy of everything from one database to another, e.g. from SQLite to PostgreSQL."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, Row, TableClause, column, insert, select, table
from sqlalchemy.exc import SQLAlchemyError

from adapters.sql.database import Database
from adapters.sql.outbox_statements import counts
from adapters.sql.tables import Instant, conversations, memories, metadata, turns, users
from domain.errors import Unusable

BATCH_ROWS: Final = 50
"""Rows that are in memory at a time: with the longest turns, some 75 MB."""

_INTEGER: Final = BigInteger()

TABLES: Final = tuple(
    table(
        each.name, *(column(one.name, _INTEGER if isinstance(one.type, Instant) else one.type) for one in each.columns)
    )
    for each in metadata.sorted_tables
)
"""All tables, those first to which others refer. Points in time are copied as the numbers that are stored."""

_KEYS: Final = {each.name: [one.name for one in each.primary_key] for each in metadata.sorted_tables}


class CopiedRows(NamedTuple):
    """How much was copied. `outbox` counts turns to be remembered, also those given up, and users to be forgotten."""

    turns: int
    conversations: int
    users: int
    memories: int
    outbox: int


class _Summary(NamedTuple):
    """The number of rows, and the sum of their hashes, which depends neither on the database nor on their order."""

    rows: int = 0
    hashes: int = 0

    def plus(self, rows: Sequence[Row[Any]]) -> "_Summary":
        return _Summary(self.rows + len(rows), (self.hashes + sum(hash(tuple(row)) for row in rows)) % 2**64)


def _nothing() -> None:
    pass


def copy_database(
    source: Database,
    target: Database,
    before_batch: Callable[[], None] = _nothing,
    before_commit: Callable[[], None] = _nothing,
) -> CopiedRows:
    """Copy all rows of `source` to `target`, which has to be empty, in one transaction. Blocks.

    No other process may use one of them. All rows are read again from the target and compared with the source before
    the commit. `before_batch` is called for each of the batches in which rows are written, and read again. It and
    `before_commit` may raise to end the copy.

    Raises:
        Unusable: the databases cannot be used, or not for this, or the copy is not like the source. Nothing was copied,
            unless the message says that this is not known.
    """
    with source.copy_source() as reader, target.copy_target() as writer:
        with _errors_of(target):
            _require_empty(target, writer)
        copied = {}
        for each in TABLES:
            summary = _Summary()
            for rows in _batches(source, reader, each):
                before_batch()
                with _errors_of(target):
                    _insert(target, writer, each, rows)
                summary = summary.plus(rows)
            copied[each.name] = summary
        for each in TABLES:
            stored = _Summary()
            for rows in _batches(target, writer, each):
                before_batch()
                stored = stored.plus(rows)
            if stored != copied[each.name]:
                raise Unusable(
                    f"Nothing was copied: the rows of the table {each.name} in the database {target.name} were not "
                    f"those of the database {source.name} ({copied[each.name].rows:,} rows, then {stored.rows:,})."
                )
        with _errors_of(target):
            outbox = counts(writer)
        before_commit()
    return CopiedRows(
        turns=copied[turns.name].rows,
        conversations=copied[conversations.name].rows,
        users=copied[users.name].rows,
        memories=copied[memories.name].rows,
        outbox=outbox.pending + outbox.dead + outbox.forgetting,
    )


@contextmanager
def _errors_of(database: Database) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise database.unusable(error) from error


def _require_empty(target: Database, writer: Connection) -> None:
    for each in TABLES:
        if writer.execute(select(1).select_from(each).limit(1)).first():
            raise Unusable(
                f"The database {target.name} is not empty (table {each.name}), and a copy overwrites nothing; "
                "choose an empty one."
            )


def _batches(database: Database, connection: Connection, each: TableClause) -> Iterator[Sequence[Row[Any]]]:
    with _errors_of(database), connection.execute(select(each), execution_options={"yield_per": BATCH_ROWS}) as result:
        yield from result.partitions()


def _insert(target: Database, writer: Connection, each: TableClause, rows: Sequence[Row[Any]]) -> None:
    values = [dict(row._mapping) for row in rows]
    try:
        writer.execute(insert(each), values)
    except SQLAlchemyError:
        for row in values:
            if any(isinstance(value, str) and "\0" in value for value in row.values()):
                key = ", ".join(f"{name} {row[name]!r}" for name in _KEYS[each.name])
                raise Unusable(
                    f"Nothing was copied: the row with {key} of the table {each.name} contains the character NUL, "
                    f"which the database {target.name} cannot store."
                ) from None
        raise
