"""Health and readiness of the service."""

from dataclasses import dataclass
from typing import NamedTuple

from application.key_watch import KeyWatch
from application.memory.outbox_worker import OutboxWorker
from application.memory.recall import Recall
from application.ports.history import ConversationHistory, HistoryError, HistoryUnavailable
from application.ports.llm import LLMError
from application.ports.memory import LongTermMemory, LongTermMemoryError, MemoryNotReady
from application.ports.memory_outbox import MemoryOutbox, OutboxCounts
from application.store_watch import StoreWatch
from application.turns.runner import TurnRunner


class MemoryProblem(NamedTuple):
    """Why long-term memory is degraded: a code, and a sentence for the operator."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Health:
    """Current failures and the amount of work in progress.

    `llm_failure` is the error of the latest call to the model, if it failed. `outbox` is None if the history cannot be
    read. `failed_recalls` counts the turns that had to do without long-term memory since the start.

    `history_failure` is the error of the last write or, if that succeeded, of the check.

    `memory_failure` is the error of the check, `recall_failure` that of the latest recall if several in a row have
    failed, and `remember_failure` that of the latest attempt to remember a turn if the memory was not ready for it.
    """

    history_failure: HistoryUnavailable | None
    llm_failure: LLMError | None
    memory_failure: LongTermMemoryError | None
    running_turns: int
    outbox: OutboxCounts | None
    failed_recalls: int
    failed_extractions: int
    recall_failure: LongTermMemoryError | HistoryError | None
    remember_failure: LongTermMemoryError | None

    @property
    def memory_problem(self) -> MemoryProblem | None:
        """The most severe problem of long-term memory. Turns that were given up count until they are deleted."""
        if failure := self.memory_failure or self.remember_failure:
            reason = "memory_not_ready" if isinstance(failure, MemoryNotReady) else failure.code
            return MemoryProblem(reason, failure.detail)
        if self.recall_failure:
            return MemoryProblem("recalls_failing", self.recall_failure.detail)
        if self.outbox and self.outbox.dead:
            return MemoryProblem("turns_given_up", "Turns could not be remembered and were given up; see the log.")
        return None

    @property
    def is_well(self) -> bool:
        return self.history_failure is None and self.llm_failure is None and self.memory_problem is None


@dataclass(frozen=True)
class CheckReadiness:
    """Return whether turns can begin.

    That takes a history that responds and whose last write succeeded, and API keys that can be looked up, if they are
    accepted. A chat does without long-term memory.
    """

    history: ConversationHistory
    runner: TurnRunner
    store_watch: StoreWatch
    key_watch: KeyWatch | None

    async def __call__(self) -> bool:
        if self.runner.draining or self.store_watch.failure or (self.key_watch and self.key_watch.failure):
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
    outbox_worker: OutboxWorker
    store_watch: StoreWatch

    async def __call__(self) -> Health:
        history_failure, memory_failure, outbox = self.store_watch.failure, None, None
        try:
            if history_failure is None:
                await self.history.check()
            outbox = await self.outbox.counts()
        except HistoryUnavailable as error:
            history_failure = history_failure or error
        try:
            await self.memory.check()
        except LongTermMemoryError as error:
            memory_failure = error
        return Health(
            history_failure=history_failure,
            llm_failure=self.runner.llm_failure,
            memory_failure=memory_failure,
            running_turns=len(self.runner),
            outbox=outbox,
            failed_recalls=self.recall.failures,
            failed_extractions=self.outbox_worker.failed_extractions,
            recall_failure=self.recall.failure,
            remember_failure=self.outbox_worker.not_ready,
        )
