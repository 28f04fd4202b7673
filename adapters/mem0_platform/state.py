"""State between calls, for an eventually consistent platform. Bounded: the oldest entries are dropped first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.conversation import UserId

Value = TypeVar("Value")


class BoundedDict(dict[str, Value], Generic[Value]):
    """A dict that drops its oldest entry when it grows beyond `max_entries`."""

    def __init__(self, max_entries: int = 10_000) -> None:
        super().__init__()
        self._max_entries = max_entries

    def __setitem__(self, key: str, value: Value) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._max_entries:
            del self[next(iter(self))]


@dataclass(frozen=True)
class Add:
    """An add that the platform has accepted and whose event has not been seen to finish."""

    user_id: UserId
    event_id: str


class PendingAdds(BoundedDict[Add]):
    """Pending adds by our own key: the id of a turn, or the one made for a fact.

    A repeated call waits for the pending add instead of adding again. Forgetting a user waits for it, too.
    """

    def of(self, user_id: UserId) -> Sequence[tuple[str, Add]]:
        return [(key, add) for key, add in self.items() if add.user_id == user_id]


class DeletionConfirmations:
    """Confirms that a user's memories are gone: they must be absent twice, at least `interval` seconds apart.

    The first absence counts for `max_age` seconds: a caller that has not asked again by then has given up, and memories
    added since may not be listed yet. `now` is a monotonic time in seconds.
    """

    def __init__(self, interval: float, *, max_age: float = 3600.0) -> None:
        self._interval = interval
        self._max_age = max_age
        self._absent_since: BoundedDict[float] = BoundedDict()

    def is_pending(self, user_id: UserId, now: float) -> bool:
        """Whether a first absence was recorded and still counts."""
        since = self._absent_since.get(user_id)
        return since is not None and now - since <= self._max_age

    def record_absence(self, user_id: UserId, now: float) -> bool:
        """Record that nothing was listed. Return whether that confirms the deletion, which also resets it."""
        if not self.is_pending(user_id, now):
            self._absent_since[user_id] = now
            return False
        confirmed = now - self._absent_since[user_id] >= self._interval
        if confirmed:
            self.reset(user_id)
        return confirmed

    def reset(self, user_id: UserId) -> None:
        """Forget the first absence, because a memory was listed or is being added."""
        self._absent_since.pop(user_id, None)
