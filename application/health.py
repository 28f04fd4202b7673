"""Health and readiness of the service."""

from dataclasses import dataclass

from application.memory.recall import Recall
from application.ports.history import ConversationHistory, HistoryError
from application.ports.llm import LLMError
from application.ports.memory import LongTermMemory, LongTermMemoryError
from application.ports.memory_outbox import MemoryOutbox, OutboxCounts
from application.turns.runner import TurnRunner


@dataclass(frozen=True, slots=True)
class Health:
    """Current failures and the amount of work in progress.

    `llm_failure` is the error of the latest call to the model, if it failed. `outbox` is None if the history cannot be
    read. `failed_recalls` counts the turns that had to do without long-term memory since the start.
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
    """Return whether turns can begin. That takes the history; a chat does without long-term memory."""

    history: ConversationHistory
    runner: TurnRunner

    async def __call__(self) -> bool:
        if self.runner.draining:
            return False
        try:
            await self.history.check()
        except HistoryError:
            return False
        return True


@dataclass(frozen=True)
class CheckHealth:
    """Query the stores. Of the model, report the latest call: querying it would cost money."""

    history: ConversationHistory
    memory: LongTermMemory
    outbox: MemoryOutbox
    recall: Recall
    runner: TurnRunner

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
            self.runner.llm_failure,
            memory_failure,
            len(self.runner),
            outbox,
            self.recall.failures,
        )
