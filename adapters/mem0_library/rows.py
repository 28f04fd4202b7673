"""Conversions between Mem0's dictionaries and the domain."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from domain.memory import DEFAULT_IMPORTANCE, Memory, MemoryId

_UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


def message(role: str, text: str) -> Mapping[str, str]:
    return {"role": role, "content": text}


def storable(text: str) -> str:
    """Remove NULs and replace lone surrogates, which stores reject."""
    return text.replace("\0", "").encode(errors="replace").decode()


def metadata_from(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("metadata") or {}


def memory_from(row: Mapping[str, Any]) -> Memory:
    importance = metadata_from(row).get("importance", DEFAULT_IMPORTANCE)
    return Memory(
        MemoryId(str(row["id"])),
        str(row.get("user_id", "")),
        row["memory"],
        float(importance),
        datetime.fromisoformat(row["created_at"]).astimezone(UTC) if row.get("created_at") else _UNKNOWN_TIME,
    )
