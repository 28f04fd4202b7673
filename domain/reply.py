"""The text of a reply while it is generated, up to a size limit."""

from collections.abc import Sequence
from typing import Final

MAX_REPLY_BYTES: Final = 256_000
"""Default size limit of a reply, in bytes of UTF-8."""


class ReplyText:
    """Collects the deltas of a reply until the size limit is reached."""

    def __init__(self, max_bytes: int = MAX_REPLY_BYTES) -> None:
        self.max_bytes = max_bytes
        self.deltas: list[str] = []
        self.exceeded = False
        """Whether a delta was dropped because the reply would have exceeded `max_bytes`."""
        self._bytes = 0

    def __str__(self) -> str:
        return "".join(self.deltas)

    def add(self, deltas: Sequence[str]) -> Sequence[str]:
        """Append the deltas that fit, and return those. A delta is kept whole or dropped with all that follow it."""
        self._bytes += len("".join(deltas).encode())
        if self._bytes > self.max_bytes:
            self.exceeded = True
            deltas = self._fitting(deltas)
        self.deltas += deltas
        return deltas

    def _fitting(self, deltas: Sequence[str]) -> Sequence[str]:
        kept, size = list(deltas), self._bytes
        while kept and size > self.max_bytes:
            size -= len(kept.pop().encode())
        return kept
