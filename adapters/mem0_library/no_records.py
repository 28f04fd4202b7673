"""The place of Mem0's own database, which stays empty."""

from collections.abc import Mapping, Sequence
from typing import Any


class NoRecords:
    """Replaces Mem0's SQLite database of messages and changes, and keeps nothing.

    Mem0 would pass a user's latest messages to the extraction of facts, as context. Messages kept here would outlive
    the deletion of their turns and of the user's memories, which does not reach this object in other processes.
    """

    def get_last_messages(self, *_: Any, **__: Any) -> Sequence[Mapping[str, Any]]:
        return []

    def save_messages(self, *_: Any) -> None: ...

    def add_history(self, *_: Any, **__: Any) -> None: ...

    def batch_add_history(self, *_: Any) -> None: ...

    def close(self) -> None: ...
