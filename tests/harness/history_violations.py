"""What the history checker reports."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def difference(some: Sequence[object], others: Sequence[object]) -> str:
    """Show the first difference of two sequences."""
    place = next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))
    return f"{list(some[place : place + 2])} and {list(others[place : place + 2])} at {place}"
