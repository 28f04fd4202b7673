"""The latest messages of each user, which fact extraction reads as context."""

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any


class RecentMessages:
    """Replaces Mem0's SQLite database: keeps up to `max_messages` of each of the `max_users` latest users in memory.

    Mem0's own would also record a history of changes, which is never read and would keep forgotten text.
    """

    def __init__(self, *, max_messages: int = 10, max_users: int = 1_000) -> None:
        self._max_messages = max_messages
        self._max_users = max_users
        self._scopes: OrderedDict[str, deque[Mapping[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get_last_messages(self, session_scope: str, limit: int = 10) -> list[Mapping[str, Any]]:
        with self._lock:
            return list(self._scopes.get(session_scope, ()))[-limit:]

    def save_messages(self, messages: Sequence[Mapping[str, Any]], session_scope: str) -> None:
        with self._lock:
            self._scopes.setdefault(session_scope, deque(maxlen=self._max_messages)).extend(messages)
            self._scopes.move_to_end(session_scope)
            if len(self._scopes) > self._max_users:
                self._scopes.popitem(last=False)

    def forget(self, user_id: str) -> None:
        # Escaped as Mem0 does it; the other two characters that it escapes do not occur in user ids.
        scope = "user_id=" + user_id.replace("=", "%3D")
        with self._lock:
            self._scopes.pop(scope, None)

    def add_history(self, *_: Any, **__: Any) -> None: ...

    def batch_add_history(self, *_: Any) -> None: ...

    def close(self) -> None: ...
