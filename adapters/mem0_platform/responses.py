"""What the platform's answers say. What they may not say is refused as a whole.

MemoryUnavailable   an answer is not of the documented shape
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from application.ports.memory import MemoryUnavailable
from domain.errors import MemoryNotFound
from domain.memory import DEFAULT_IMPORTANCE, Memory, Recalled, memory_id

IMPORTANCE: Final = "importance"
CREATED_AT: Final = "created_at"
FACT_KEY: Final = "fact_key"
"""Tells a stored fact from all others before its id is known."""
TURN_ID: Final = "turn_id"


@dataclass(frozen=True)
class Row:
    """A memory with what the platform keeps beside it."""

    memory: Memory
    metadata: Mapping[str, Any]
    score: float

    @property
    def recalled(self) -> Recalled:
        return Recalled(self.memory, self.score)


def rows_of(answer: object) -> Sequence[Row]:
    """The memories of a page or of a search."""
    results = answer.get("results") if isinstance(answer, Mapping) else None
    if not isinstance(results, list):
        raise _unreadable()
    return [row_of(result) for result in results]


def row_of(result: Any) -> Row:
    match result:
        case {"id": str(name), "memory": str(fact)}:
            metadata = result.get("metadata") or {}
        case _:
            raise _unreadable()
    owner = result.get("user_id")
    try:
        memory = Memory(
            memory_id(name.lower()),
            owner if isinstance(owner, str) else "",  # nobody's: whoever checks owners refuses it
            fact,
            _fraction(metadata.get(IMPORTANCE), DEFAULT_IMPORTANCE),
            _time(metadata.get(CREATED_AT) or result.get("created_at")),
        )
        return Row(memory, metadata, _fraction(result.get("score"), 0.0))
    except (MemoryNotFound, ValueError, TypeError, AttributeError):
        pass
    raise _unreadable()  # outside of the handler: what the platform wrote must not hang on it


def has_more(answer: Mapping[str, Any]) -> bool:
    """Whether there is a page behind this one."""
    return bool(answer.get("next"))


def event_id_of(answer: object) -> str:
    """The event that an add became."""
    match answer:
        case {"event_id": str(event_id)} if event_id:
            return event_id
    raise _unreadable()


@dataclass(frozen=True)
class Event:
    """How an add fares. `added` is how many memories it made."""

    finished: bool
    failed: bool
    added: int


def event_of(answer: Any) -> Event:
    match answer:
        case {"status": "PENDING" | "RUNNING"}:
            return Event(finished=False, failed=False, added=0)
        case {"status": "FAILED"}:
            return Event(finished=True, failed=True, added=0)
        case {"status": "SUCCEEDED"}:
            results = answer.get("results") or []
            added = [one for one in results if isinstance(one, Mapping) and one.get("event", "ADD") == "ADD"]
            return Event(finished=True, failed=False, added=len(added))
    raise _unreadable()


def _fraction(value: object, otherwise: float) -> float:
    """A number between 0 and 1; what is no number counts as not said."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return otherwise
    return min(1.0, max(0.0, float(value)))


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(str(value))
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _unreadable() -> MemoryUnavailable:
    return MemoryUnavailable("The memory platform gave an answer that can not be read.")
