"""GenerateReply: what happens to a turn between its begin and its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from application.memory.outbox_worker import MemoryKeeper
from application.memory.recall import Recollection
from application.ports.history import ConversationHistory, HistoryWriteFailed
from application.ports.live_turns import End
from application.ports.llm import LLM, LLMContextTooLong
from application.ports.turn_observer import TurnFigures, TurnObserver
from application.turns.running import RunningTurn
from domain.context import MAX_TURNS, assemble
from domain.conversation import Exchange, Message, Turn
from domain.errors import Cancelled, ChatError, ContextTooLong, InternalError, TurnDeadline

FINISH_PAUSES: Final = (0.0, 0.5, 1.5)
"""Seconds before each attempt to store how a turn ended; their sum and the store's own limits stay in sight of 5 s."""


@dataclass(frozen=True)
class GenerateReply:
    """Ask the model, append what it says to the turn's log, and store how it ended before any reader is told.

    Never raises: whatever happens becomes the turn's end.
    """

    llm: LLM
    history: ConversationHistory
    recollection: Recollection
    keeper: MemoryKeeper
    observer: TurnObserver
    instructions: str
    context_tokens: int
    deadline: float
    """Seconds a turn may take in all."""

    async def __call__(self, running: RunningTurn) -> None:
        finish_reason = ""
        failure: ChatError | None = None
        try:
            running.scope.deadline = running.started_at + self.deadline
            with running.scope:
                finish_reason = await self._generate(running)
            if running.scope.cancelled_caught:
                failure = running.interruption or TurnDeadline(f"The turn took longer than {self.deadline:g} seconds.")
        except ChatError as error:
            failure = error
        except Exception as bug:
            failure = InternalError()
            failure.__cause__ = bug
        begun = running.turn
        ended = begun.cut(running.reply, failure) if failure else begun.completed(running.reply, finish_reason)
        with anyio.CancelScope(shield=True):
            await self._end(running, ended, failure)

    async def _generate(self, running: RunningTurn) -> str:
        latest, facts = await self._look_back(running)

        def context(budget: int) -> Sequence[Message]:
            return assemble(self.instructions, latest, running.turn.user_message, budget, facts)

        try:
            return await self._reply(running, context(self.context_tokens))
        except LLMContextTooLong:
            if running.texts:
                raise  # what was sent can not be taken back
            # Our estimate was too low for this model: once more with half as much.
        try:
            return await self._reply(running, context(self.context_tokens // 2))
        except LLMContextTooLong as error:
            raise ContextTooLong from error

    async def _look_back(self, running: RunningTurn) -> tuple[Sequence[Exchange], Sequence[str]]:
        """The latest turns and what long-term memory has to say, asked for side by side."""
        facts: list[str] = []

        async def recall() -> None:
            facts.extend(await self.recollection.recall_for(running))

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(recall)
                latest = await self.history.latest(running.turn.user_id, running.turn.conversation_id, MAX_TURNS)
        except ExceptionGroup as failures:  # recalling keeps its failures to itself
            raise failures.exceptions[0] from None
        return latest, facts

    async def _reply(self, running: RunningTurn, messages: Sequence[Message]) -> str:
        async with self.llm.reply(messages) as reply:
            running.accept()
            async for texts in reply:
                await running.append(texts)
            running.usage = reply.usage
            return reply.finish_reason

    async def _end(self, running: RunningTurn, ended: Turn, failure: ChatError | None) -> None:
        try:
            if not await self._finish(running, ended):
                failure = Cancelled("The turn was deleted while it ran.")
                ended = running.turn.cut(running.reply, failure)
        except HistoryWriteFailed as error:
            failure = error
            ended = running.turn.cut(running.reply, failure)
        running.turn, running.failure = ended, failure
        await running.log.close(End(None, failure) if failure else End(ended.reason or "stop", None))
        running.ended.set()
        running.answered.set()
        self.observer.ended(ended, failure, _figures(running))
        if failure is not None:  # kept with the log; what led to it holds the messages, and has been reported
            failure.__traceback__ = failure.__cause__ = failure.__context__ = None

    async def _finish(self, running: RunningTurn, ended: Turn) -> bool:
        for pause in FINISH_PAUSES:
            await anyio.sleep(pause)
            try:
                remember_at = self.keeper.remember_at(running, ended)
                kept = await self.history.finish(ended, remember_at=remember_at)
                if remember_at:
                    self.keeper.wake()
                return kept
            except Exception as error:  # whatever the store does, the readers are told
                self.observer.failed("storing how a turn ended", error)
        raise HistoryWriteFailed


def _figures(running: RunningTurn) -> TurnFigures:
    first = running.first_text_at
    return TurnFigures(
        seconds=anyio.current_time() - running.started_at,
        first_text_seconds=None if first is None else first - running.started_at,
        texts=len(running.texts),
        usage=running.usage,
        memories=running.recalled,
    )
