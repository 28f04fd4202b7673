"""For being told how turns fare: logs now, metrics and traces later."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

from application.ports.llm import Usage
from domain.conversation import Turn
from domain.errors import ChatError


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """What a turn took. Seconds are measured from its begin.

    `memories` is how many were recalled for it, None where long-term memory did not answer or was not asked.
    """

    seconds: float
    first_text_seconds: float | None
    texts: int
    usage: Usage | None
    memories: int | None


class TurnObserver(Protocol):
    """For being told how turns fare. Calls return at once and never raise."""

    @abstractmethod
    def ended(self, turn: Turn, error: ChatError | None, figures: TurnFigures) -> None:
        """A turn has ended, as `turn` says; `error` is what ended it early."""
        ...

    @abstractmethod
    def failed(self, doing: str, error: Exception) -> None:
        """Something failed while the application was `doing` what it says; it goes on."""
        ...
