"""What users said last, for resolving what they say next."""

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

RECENT_MESSAGES: Final = 10
RECENT_USERS: Final = 1_000


class RecentMessages:
    """In place of Mem0's database of its own: the last messages of the latest users, which extraction reads.

    The history of changes that Mem0 writes there too is read by nobody, and would keep what was forgotten.
    """

    def __init__(self) -> None:
        self._scopes: OrderedDict[str, deque[Mapping[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get_last_messages(self, session_scope: str, limit: int = RECENT_MESSAGES) -> list[Mapping[str, Any]]:
        with self._lock:
            return list(self._scopes.get(session_scope, ()))[-limit:]

    def save_messages(self, messages: Sequence[Mapping[str, Any]], session_scope: str) -> None:
        with self._lock:
            self._scopes.setdefault(session_scope, deque(maxlen=RECENT_MESSAGES)).extend(messages)
            self._scopes.move_to_end(session_scope)
            if len(self._scopes) > RECENT_USERS:
                self._scopes.popitem(last=False)

    def forget(self, user_id: str) -> None:
        scope = "user_id=" + user_id.replace("=", "%3D")  # as Mem0 writes it; its other two escapes are in no id
        with self._lock:
            self._scopes.pop(scope, None)

    def add_history(self, *_: Any, **__: Any) -> None: ...

    def batch_add_history(self, *_: Any) -> None: ...

    def close(self) -> None: ...
