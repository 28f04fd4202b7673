"""Full-text search in memories: the part of long-term memory that every SQL dialect does differently."""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from domain.conversation import UserId

Hit = tuple[int, float, int, int]
"""A memory that contains at least one of the words: its place, importance and age in microseconds, and which words.

The latter is a bit mask: bit n is set if it contains the n-th word searched for.
"""


class FullText(Protocol):
    """The full-text index of `tables.memories.words`. Every method runs in the caller's transaction.

    Its texts and the words searched for come from `domain.memory`, which folds case, accents and endings and separates
    words by spaces. The index may still fold English endings.
    """

    @abstractmethod
    def search(self, connection: Connection, user_id: UserId, words: Sequence[str], now: datetime) -> Sequence[Hit]:
        """Find the user's memories with any of the words, in any form that the index considers the same word.

        There may be up to `MAX_SEARCH_WORDS`, and they are never interpreted as query syntax. A user's oldest memories
        may be skipped to bound the cost.
        """
        ...

    @abstractmethod
    def purge_deleted(self, connection: Connection) -> None:
        """Have the words of memories that this transaction deletes or changes removed from the index itself.

        An index may keep them on disk after its results no longer show them. They are removed when the other content is
        that the transaction deletes; see `Database.erase`.
        """
        ...
