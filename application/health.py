"""CheckHealth: what works at the moment."""

from dataclasses import dataclass

from application.ports.history import ConversationHistory, HistoryError
from application.ports.llm import LLMError
from application.running_turns import RunningTurns


@dataclass(frozen=True, slots=True)
class Health:
    """`llm_failure` is how the latest call that the model's service answered or refused went wrong, if it did."""

    history_failure: HistoryError | None
    llm_failure: LLMError | None
    running_turns: int

    @property
    def is_well(self) -> bool:
        return self.history_failure is None and self.llm_failure is None


@dataclass(frozen=True)
class CheckHealth:
    """Ask the store; of the model, report how the latest call went: asking it costs money."""

    history: ConversationHistory
    turns: RunningTurns

    async def __call__(self) -> Health:
        history_failure = None
        try:
            await self.history.check()
        except HistoryError as error:
            history_failure = error
        return Health(history_failure, self.turns.llm_failure, len(self.turns))
