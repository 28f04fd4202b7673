"""GenerateReply: everything that happens to a turn between its begin and its end."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from application.memory.outbox_worker import OutboxWorker
from application.memory.recall import Recall
from application.ports.history import ConversationHistory, HistoryUnavailable, HistoryWriteFailed, TurnEnd
from application.ports.live_turns import End
from application.ports.llm import LLM, LLMContextTooLong
from application.ports.turn_observer import BackgroundFailure, TurnEnded, TurnFenced, TurnObserver, Where
from application.turns.context_window import Attempt, ContextWindow
from application.turns.handle import end_of
from application.turns.running import RunningTurn
from domain.context import MAX_TURNS, estimate_usage
from domain.conversation import Exchange, Turn, TurnStatus
from domain.errors import Cancelled, ChatError, ContextTooLong, Failure, InternalError, TurnDeadline


@dataclass(frozen=True)
class GenerateReply:
    """Ask the model, publish its deltas, and store the end of the turn before any reader sees it.

    Never raises: every failure becomes the end of the turn.
    """

    llm: LLM
    history: ConversationHistory
    recall: Recall
    outbox_worker: OutboxWorker
    observer: TurnObserver
    instructions: str
    window: ContextWindow
    deadline: float
    """Seconds that a turn may take in total."""
    store_delays: Sequence[float] = (0.0, 0.5, 1.5)
    """Seconds before each attempt to store the end of a turn."""
    store_timeout: float = 5.0
    """Seconds that all attempts together may take, the store's own timeouts included."""

    async def __call__(self, running: RunningTurn) -> None:
        finish_reason = ""
        error: ChatError | None = None
        try:
            running.scope.deadline = running.started_at + self.deadline
            with running.scope:
                finish_reason = await self._generate(running)
            if running.scope.cancelled_caught:
                error = running.interruption or TurnDeadline(
                    f"The turn took longer than {self.deadline:g} s (TURN_TIMEOUT)."
                )
        except ChatError as caught:
            error = caught
        except Exception as bug:
            error = InternalError()
            error.__cause__ = bug
        with anyio.CancelScope(shield=True):
            await self._end(running, finish_reason, error)

    async def _generate(self, running: RunningTurn) -> str:
        latest, facts = await self._look_up_context(running)
        parts = running.request.parts(self.instructions, running.turn.user_message, latest, facts)
        window = self.window.of(running.request.options.model)
        attempt: Attempt | None = window.first(parts)
        while attempt is not None:
            try:
                return await self._reply(running, attempt)
            except LLMContextTooLong as error:
                if running.reply.deltas:
                    raise  # text that was sent cannot be taken back
                attempt, refusal = window.smaller(parts, attempt, error), error
        raise ContextTooLong from refusal

    async def _look_up_context(self, running: RunningTurn) -> tuple[Sequence[Exchange], Sequence[str]]:
        """Read the latest turns, unless the client has sent them, and recall memories, concurrently."""
        turn = running.turn
        facts: list[str] = []
        latest: Sequence[Exchange] = ()

        async def recall() -> None:
            recalled = await self.recall.facts_for(turn)
            if recalled is not None:
                running.memories = len(recalled)
                facts.extend(recalled)

        try:
            async with anyio.create_task_group() as tasks:
                if running.use_memory:
                    tasks.start_soon(recall)
                if running.request.latest_first is None:
                    latest = await self.history.latest(turn.user_id, turn.conversation_id, MAX_TURNS)
        except ExceptionGroup as failures:  # of the history alone, since recall handles its own errors
            raise failures.exceptions[0] from None
        return latest, facts

    async def _reply(self, running: RunningTurn, attempt: Attempt) -> str:
        running.prompt = attempt.messages
        options = running.request.options
        async with self.llm.reply(attempt.messages, attempt.max_tokens, options) as reply:
            running.accept()
            try:
                async for deltas in reply:
                    running.append(deltas)
            finally:
                running.usage, running.notes = reply.usage, reply.notes
        self.window.of(options.model).accepted(attempt, reply.usage)
        return reply.finish_reason

    async def _end(self, running: RunningTurn, finish_reason: str, error: ChatError | None) -> None:
        ended = self._ended(running, finish_reason, error)
        running.has_ended = True
        try:
            stored = await self._store(running, ended) if running.is_stored else ended
        except HistoryWriteFailed as unstored:
            error = unstored
            stored = ended.ended_by(error, ended.reply, ended.usage)
        else:
            if stored is None:
                error = Cancelled("The turn was deleted.")
                stored = ended.ended_by(error, ended.reply, ended.usage)
            elif (stored.status, stored.reason) != (ended.status, ended.reason):
                self.observer.observe(TurnFenced(stored))
        running.turn, running.failure = stored, error
        await running.release_lease(turn_ended=not isinstance(error, HistoryWriteFailed))
        await running.close(_end_event(stored, ended, error))
        self.observer.observe(_ended_event(running, stored, error))
        if error is not None:  # kept by the runner; its cause may hold the messages, and has been reported
            error.__traceback__ = error.__cause__ = error.__context__ = None

    def _ended(self, running: RunningTurn, finish_reason: str, error: ChatError | None) -> Turn:
        reply, usage = str(running.reply), running.usage
        if usage is None and running.accepted:
            usage = estimate_usage(running.prompt, reply, self.window.of(running.request.options.model).estimate)
        if error is None:
            return running.turn.completed(reply, finish_reason, usage)
        return running.turn.ended_by(error, reply, usage)

    async def _store(self, running: RunningTurn, ended: Turn) -> Turn | None:
        """Store the end, and return the turn as stored; None if it was deleted."""
        remember = self.outbox_worker.enabled and running.use_memory and ended.status is TurnStatus.COMPLETED
        running.limit_storing(self.store_timeout)
        with running.storing:
            for delay in self.store_delays:
                await anyio.sleep(delay)
                try:
                    stored = await self.history.finish(TurnEnd(ended, remember=remember))
                except Exception as error:  # of any kind: the readers have to be told
                    self.observer.observe(BackgroundFailure(Where.STORING_END, error))
                else:
                    if remember:
                        self.outbox_worker.wake()
                    return stored
        if running.storing.cancelled_caught:
            slow = HistoryUnavailable("The store did not accept the end of the turn in time.")
            self.observer.observe(BackgroundFailure(Where.STORING_END, slow))
        raise HistoryWriteFailed


def _end_event(stored: Turn, ended: Turn, error: ChatError | None) -> End:
    """Describe the end as stored, which may be another one than ours."""
    if stored.status is not TurnStatus.COMPLETED and error is not None and error.code == stored.reason:
        return End(None, Failure.of(error), stored.usage)
    return end_of(stored)


def _ended_event(running: RunningTurn, stored: Turn, error: ChatError | None) -> TurnEnded:
    first = running.first_delta_at
    return TurnEnded(
        stored,
        error,
        seconds=anyio.current_time() - running.started_at,
        first_delta_seconds=None if first is None else first - running.started_at,
        deltas=len(running.reply.deltas),
        memories=running.memories,
        notes=running.notes,
    )
