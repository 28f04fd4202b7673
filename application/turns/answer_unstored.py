"""AnswerUnstored: a reply outside of any conversation."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import anyio

from application.ports.conversation_leases import Lease
from application.ports.live_turns import LiveTurns
from application.ports.turn_observer import TurnBegun, TurnObserver, TurnRejected
from application.turns.admission import admit
from application.turns.context_window import ContextWindow
from application.turns.handle import TurnHandle
from application.turns.reply_request import ReplyRequest
from application.turns.runner import TurnRunner
from application.turns.running import RunningTurn
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import ChatError, ServerShuttingDown
from domain.reply import MAX_REPLY_BYTES


@dataclass(frozen=True)
class AnswerUnstored:
    """Generate a reply that is neither stored nor remembered, from nothing but what the client has sent.

    For the model, the deadline, the limits, the shutdown and the log it is a turn like any other. It does not wait for
    other turns, and other requests cannot find it, because its `live_turns` are separate. It is stopped when its reader
    leaves.
    """

    live_turns: LiveTurns
    runner: TurnRunner
    observer: TurnObserver
    now: Callable[[], datetime]
    new_turn_id: Callable[[], TurnId]
    instructions: str
    window: ContextWindow
    max_message_chars: int
    max_reply_bytes: int = MAX_REPLY_BYTES

    async def __call__(self, user_id: UserId, text: str, request: ReplyRequest) -> TurnHandle:
        """Return once the turn has begun; its events and its end are read from the handle.

        Raises:
            MessageTooLong, ContextTooLong: the message alone exceeds a limit.
            ServerShuttingDown: turns are no longer accepted.
        """
        try:
            if self.runner.draining:
                raise ServerShuttingDown
            admit(text, request, self.instructions, self.window, self.max_message_chars)
        except ChatError as error:
            self.observer.observe(TurnRejected(user_id, DEFAULT_CONVERSATION, error))
            raise
        turn = Turn(self.new_turn_id(), user_id, DEFAULT_CONVERSATION, self.now(), text)
        running = RunningTurn(
            turn,
            _NoLease(),
            self.observer,
            use_memory=False,
            request=request,
            is_stored=False,
            max_reply_bytes=self.max_reply_bytes,
        )
        with anyio.CancelScope(shield=True):
            running.attach(await self.live_turns.open(turn, running.stop, stop_when_left=True))
            handle = TurnHandle(turn, await self.live_turns.join(turn.id, user_id))
            self.observer.observe(TurnBegun(turn))
            self.runner.start(running)
        return handle  # for mypy, which assumes that the scope suppresses exceptions


class _NoLease(Lease):
    """The lease of a turn that belongs to no conversation: there is nothing to release."""

    async def release(self, *, turn_ended: bool = False) -> None:
        pass
