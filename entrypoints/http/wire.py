"""How the events of a turn are put on the wire. Each format is one implementation, next to its routes."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

from application.ports.live_turns import Batch


class Wire(Protocol):
    """Encodes the events of one turn for one response."""

    keep_alive: bytes
    """Sent when the log has been idle for a while, so that proxies keep the connection open. Clients ignore it."""

    @property
    @abstractmethod
    def head(self) -> Mapping[str, str]:
        """The response headers, including the content type."""
        ...

    @abstractmethod
    def encode(self, batch: Batch) -> bytes:
        """Return the bytes of a batch; empty if the format has no bytes for it.

        Batches are passed in order. The bytes depend on nothing but the batch and the turn, so that every process
        sends the same.
        """
        ...
