"""Parses the platform's responses. A response with anything malformed in it is rejected as a whole.

All functions raise:
    MemoryUnavailable: the response does not have the documented shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from application.ports.memory import MemoryUnavailable
from domain.errors import MemoryNotFound
from domain.memory import DEFAULT_IMPORTANCE, Memory, Recalled, parse_memory_id

IMPORTANCE: Final = "importance"
CREATED_AT: Final = "created_at"
FACT_KEY: Final = "fact_key"
"""Identifies a stored fact until its id is known."""
TURN_ID: Final = "turn_id"

INVALID: Final = "The memory platform's response is invalid; check MEM0_HOST if this lasts."


@dataclass(frozen=True)
class Row:
    """A memory with its metadata, and its score if it was found by a search."""

    memory: Memory
    metadata: Mapping[str, Any]
    score: float

    @property
    def recalled(self) -> Recalled:
        return Recalled(self.memory, self.score)


def parse_rows(body: object) -> Sequence[Row]:
    """Parse a page of a listing, or the results of a search."""
    results = body.get("results") if isinstance(body, Mapping) else None
    if not isinstance(results, list):
        raise _invalid()
    return [parse_row(result) for result in results]


def parse_row(result: Any) -> Row:
    match result:
        case {"id": str(name), "memory": str(fact)}:
            metadata = result.get("metadata") or {}
        case _:
            raise _invalid()
    owner = result.get("user_id")
    try:
        memory = Memory(
            parse_memory_id(name.lower()),
            owner if isinstance(owner, str) else "",  # no user's, so the check of owners rejects it
            fact,
            _fraction(metadata.get(IMPORTANCE), DEFAULT_IMPORTANCE),
            _time(metadata.get(CREATED_AT) or result.get("created_at")),
        )
        return Row(memory, metadata, _fraction(result.get("score"), 0.0))
    except (MemoryNotFound, ValueError, TypeError, AttributeError):
        pass
    raise _invalid()  # outside of the handler, so that the platform's text does not become its context


def names_account(body: object) -> bool:
    """Whether the response to a ping names the account of the key, as the platform's does."""
    return isinstance(body, Mapping) and not {"org_id", "project_id", "user_email"}.isdisjoint(body)


def has_next_page(body: Mapping[str, Any]) -> bool:
    return bool(body.get("next"))


def parse_event_id(body: object) -> str:
    """Parse the response to an add: the id of the event that tracks it."""
    match body:
        case {"event_id": str(event_id)} if event_id:
            return event_id
    raise _invalid()


@dataclass(frozen=True)
class Event:
    """The progress of an add. `added` is the number of memories that it created."""

    finished: bool
    failed: bool
    added: int


def parse_event(body: Any) -> Event:
    match body:
        case {"status": "PENDING" | "RUNNING"}:
            return Event(finished=False, failed=False, added=0)
        case {"status": "FAILED"}:
            return Event(finished=True, failed=True, added=0)
        case {"status": "SUCCEEDED"}:
            results = body.get("results") or []
            added = [one for one in results if isinstance(one, Mapping) and one.get("event", "ADD") == "ADD"]
            return Event(finished=True, failed=False, added=len(added))
    raise _invalid()


def _fraction(value: object, default: float) -> float:
    """Clamp a number to [0, 1]; return the default for NaN and anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return default
    return min(1.0, max(0.0, float(value)))


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(str(value))
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _invalid() -> MemoryUnavailable:
    return MemoryUnavailable(INVALID)
