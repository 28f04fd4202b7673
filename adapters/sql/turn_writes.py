"""The two writes of every turn, its begin and its end, in a form that a dialect can make faster."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from adapters.sql import turn_statements
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import ConversationId, Turn, UserId

T = TypeVar("T")

Sent = Callable[[], T]
"""Statements that have been sent to the database. Calling it returns their result.

A database that is a round trip away can so be sent the statements of a whole batch before the first result is read.
"""


class TurnWrites:
    """Runs the statements of a turn at once, one after another, in the caller's transaction.

    Leases are not kept in the database: a single process uses it.
    """

    def take_conversation(self, connection: Connection, turn: Turn, now: datetime) -> bool:
        """Take the lease of the conversation for a turn, or keep it. Returns False if another turn has it."""
        return True

    def delete_leases(
        self, connection: Connection, user_id: UserId, conversation_id: ConversationId | None, now: datetime
    ) -> None:
        """Delete what is known about the leases of conversations whose turns are about to be deleted."""

    def begin(self, connection: Connection, record: TurnBegin, now: datetime) -> Sent[bool]:
        """Give the turn its place, count it in its conversation, and insert it.

        Results in False, and writes nothing, if it was to take its conversation and another turn has that.
        """
        turn_statements.begin(connection, record, now)
        return lambda: True

    def finish(self, connection: Connection, end: TurnEnd, now: datetime) -> Sent[Turn | None]:
        """End the turn if it is running, and put it into the outbox if it is to be remembered. Wake who waits for it.

        Results in the turn as stored, None if there is none.
        """
        stored = turn_statements.finish(connection, end, now)
        return lambda: stored
