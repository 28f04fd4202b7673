"""What has to be remembered between calls because the platform is slow to do as it was told. Bounded: the oldest go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from domain.conversation import UserId

Value = TypeVar("Value")

MAX_ENTRIES: Final = 10_000
"""Users, and adds, that are known at once."""

LOOK_LIFE: Final = 3600.0
"""Seconds that a first look at an empty listing counts: whoever asked that long ago has given up, and what was added
since may not be listed yet."""


class Latest(dict[str, Value], Generic[Value]):
    """A dict that drops its oldest entry where it would grow beyond MAX_ENTRIES."""

    def __setitem__(self, key: str, value: Value) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > MAX_ENTRIES:
            del self[next(iter(self))]


@dataclass(frozen=True)
class Add:
    """An add that the platform took on and has not been seen to finish."""

    user_id: UserId
    event_id: str


class AddsUnderWay(Latest[Add]):
    """By our own key: a stored fact's or a turn's id.

    Asked again, the same is waited for instead of added anew; and nobody is forgotten while theirs may still arrive.
    """

    def of(self, user_id: UserId) -> Sequence[tuple[str, Add]]:
        return [(key, add) for key, add in self.items() if add.user_id == user_id]


class Emptiness:
    """Since when a user's memories have been seen to be gone; it takes two looks, `interval` apart, to be certain.

    Times are in seconds of a clock that never goes back.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._since: Latest[float] = Latest()

    def begun(self, user_id: UserId, now: float) -> bool:
        """Whether there was a first look that counts."""
        since = self._since.get(user_id)
        return since is not None and now - since <= LOOK_LIFE

    def seen(self, user_id: UserId, now: float) -> bool:
        """Note that nothing is there; whether that is certain now, after which the next look is a first one."""
        if not self.begun(user_id, now):
            self._since[user_id] = now
            return False
        certain = now - self._since[user_id] >= self._interval
        if certain:
            self.broken(user_id)
        return certain

    def broken(self, user_id: UserId) -> None:
        """Something is there, or is going to be."""
        self._since.pop(user_id, None)
