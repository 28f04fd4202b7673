"""SendMessage: begin a turn and let it run."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import anyio

from application.ports.conversation_leases import ConversationLeases, Lease
from application.ports.history import ConversationHistory
from application.ports.live_turns import LiveTurns, Reader
from application.turns.running import RunningTurn, RunningTurns
from domain.context import assemble
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import MessageTooLong, ServerShuttingDown

QUEUE_WAIT: Final = 10.0
"""Seconds that a turn waits for the one before it in its conversation."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What a user says.

    `keep_running` has the reply generated to its end even where nobody reads it any more. Without `use_memory` nothing
    is recalled for the reply, and nothing of the turn is remembered.
    """

    user_id: UserId
    conversation_id: ConversationId
    text: str
    keep_running: bool
    wait_when_busy: bool = True
    use_memory: bool = True


@dataclass(frozen=True, slots=True)
class BegunTurn:
    """A turn that runs, and its first reader, who is present already."""

    running: RunningTurn
    reader: Reader


@dataclass(frozen=True)
class SendMessage:
    """Begin a turn: durable before the model is asked, generated in a task of its own, followed by a reader."""

    history: ConversationHistory
    live_turns: LiveTurns
    leases: ConversationLeases
    turns: RunningTurns
    now: Callable[[], datetime]
    new_turn_id: Callable[[], TurnId]
    instructions: str
    context_tokens: int
    max_message_chars: int

    async def __call__(self, message: NewMessage) -> BegunTurn:
        """Return when the turn has begun; its end is the reader's to see.

        Raises:
            MessageTooLong, ContextTooLong: the message alone is more than the model may be given.
            TurnInProgress: the conversation stayed busy.
            ServerShuttingDown: no turn may begin any more.
            HistoryUnavailable: the message could not be stored; the model has not been asked.
        """
        self._admit(message)
        wait = QUEUE_WAIT if message.wait_when_busy else 0
        lease = await self.leases.acquire(message.user_id, message.conversation_id, wait=wait)
        with anyio.CancelScope(shield=True):  # a turn that is stored has someone who ends it
            try:
                begun = await self._begin(message, lease)
            except BaseException:
                await lease.release()
                raise
        return begun

    def _admit(self, message: NewMessage) -> None:
        if self.turns.closing:
            raise ServerShuttingDown
        if len(message.text) > self.max_message_chars:
            raise MessageTooLong(
                f"The message has {len(message.text)} characters; the limit is {self.max_message_chars}."
            )
        assemble(self.instructions, (), message.text, self.context_tokens)

    async def _begin(self, message: NewMessage, lease: Lease) -> BegunTurn:
        if self.turns.closing:
            raise ServerShuttingDown
        turn = Turn(self.new_turn_id(), message.user_id, message.conversation_id, self.now(), message.text)
        await self.history.begin(turn)
        running = RunningTurn(turn, uses_memory=message.use_memory)
        running.attach(await self.live_turns.open(turn, running.stop, stop_when_left=not message.keep_running))
        reader = await self.live_turns.join(turn.id)
        self.turns.start(running, lease)
        return BegunTurn(running, reader)
