"""What works at the moment."""

from dataclasses import dataclass

from application.memory.recall import Recollection
from application.ports.history import ConversationHistory, HistoryError
from application.ports.llm import LLMError
from application.ports.memory import LongTermMemory, LongTermMemoryError
from application.ports.memory_outbox import MemoryOutbox, OutboxCounts
from application.turns.running import RunningTurns


@dataclass(frozen=True, slots=True)
class Health:
    """What fails, and how much is under way.

    `llm_failure` is how the latest call that the model's service answered or refused went wrong, if it did. `outbox` is
    None where the history does not tell. `failed_recalls` counts the turns that had to do without long-term memory.
    """

    history_failure: HistoryError | None
    llm_failure: LLMError | None
    memory_failure: LongTermMemoryError | None
    running_turns: int
    outbox: OutboxCounts | None
    failed_recalls: int

    @property
    def is_well(self) -> bool:
        return self.history_failure is None and self.llm_failure is None and self.memory_failure is None


@dataclass(frozen=True)
class CheckReadiness:
    """What keeps turns from beginning, if something does. They need the history, and can do without memory."""

    history: ConversationHistory

    async def __call__(self) -> HistoryError | None:
        try:
            await self.history.check()
        except HistoryError as error:
            return error
        return None


@dataclass(frozen=True)
class CheckHealth:
    """Ask the stores; of the model, report how the latest call went: asking it costs money."""

    history: ConversationHistory
    memory: LongTermMemory
    outbox: MemoryOutbox
    recollection: Recollection
    turns: RunningTurns

    async def __call__(self) -> Health:
        history_failure, memory_failure, outbox = None, None, None
        try:
            await self.history.check()
            outbox = await self.outbox.counts()
        except HistoryError as error:
            history_failure = error
        try:
            await self.memory.check()
        except LongTermMemoryError as error:
            memory_failure = error
        return Health(
            history_failure,
            self.turns.llm_failure,
            memory_failure,
            len(self.turns),
            outbox,
            self.recollection.failures,
        )
