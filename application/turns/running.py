"""The state of one turn while its reply is generated. Private to this folder: others see it through its event log."""

from collections.abc import Sequence

import anyio

from application.ports.conversation_leases import Lease
from application.ports.history import ReplyAddition
from application.ports.live_turns import End, EventLog
from application.ports.turn_observer import BackgroundFailure, FirstDelta, TurnAccepted, TurnObserver, Where
from application.turns.leases import release
from application.turns.reply_request import AS_USUAL, ReplyRequest
from domain.conversation import Message, Turn, Usage
from domain.errors import ChatError, Interruption, OutputLimit
from domain.reply import ReplyText


class RunningTurn:
    """One turn while its reply is generated.

    Writing to the event log never fails the turn: at the first error the log is abandoned, which ends it for its
    readers, and the reply is still generated and stored. Closing the log and releasing the conversation's lease may
    take `close_timeout` seconds each.
    """

    def __init__(
        self,
        turn: Turn,
        lease: Lease,
        observer: TurnObserver,
        *,
        use_memory: bool = True,
        request: ReplyRequest = AS_USUAL,
        is_stored: bool = True,
        max_reply_bytes: int,
        close_timeout: float = 5.0,
    ) -> None:
        self.turn = turn
        self.lease = lease
        self.use_memory = use_memory
        self.request = request
        """What the client has sent along."""
        self.is_stored = is_stored
        """Whether the turn is in the history."""
        self.memories: int | None = None
        """Number of recalled memories; None if long-term memory did not answer or was not asked."""
        self.has_ended = False
        """The reply has ended, and its end is being stored."""
        self.failure: ChatError | None = None
        """The error that ended the turn, known once it has ended."""
        self.interruption: Interruption | None = None
        """The first request to end the turn."""
        self.scope = anyio.CancelScope()
        self.storing = anyio.CancelScope(shield=True)
        """Contains the attempts to store the end. Its deadline is set by `limit_storing`."""
        self.started_at = anyio.current_time()
        self.accepted = False
        self.first_delta_at: float | None = None
        self.reply = ReplyText(max_reply_bytes)
        self.prompt: Sequence[Message] = ()
        """The messages sent to the model."""
        self.usage: Usage | None = None
        """As reported by the provider."""
        self.notes: Sequence[str] = ()
        """Remarks about the reply for the operator."""
        self.saved_deltas = 0
        """Number of deltas already in the history."""
        self.saved_characters = 0
        """The length of their text."""
        self.renewed_at = self.started_at
        """When the turn's lease in the history was last renewed."""
        self._observer = observer
        self._close_timeout = close_timeout
        self._log: EventLog | None = None

    @property
    def unsaved(self) -> ReplyAddition:
        """The text that is not in the history yet."""
        return ReplyAddition(self.saved_characters, "".join(self.reply.deltas[self.saved_deltas :]))

    def attach(self, log: EventLog) -> None:
        """Write the turn's events to `log` from now on."""
        self._log = log

    def stop(self, interruption: Interruption) -> None:
        """End the turn. Text generated so far is kept."""
        if self.interruption is None:
            self.interruption = interruption
            self.scope.cancel()

    def limit_storing(self, seconds: float) -> None:
        """Let storing the end take at most so long from now, unless less time is left already."""
        self.storing.deadline = min(self.storing.deadline, anyio.current_time() + seconds)

    def accept(self) -> None:
        """Record that the model has started to answer, and tell the readers. Idempotent."""
        if self.accepted:  # by an earlier request, which was repeated with a shorter prompt
            return
        self.accepted = True
        self._observer.observe(TurnAccepted(self.turn, anyio.current_time() - self.started_at))
        if self._log is not None:
            try:
                self._log.accept()
            except Exception as error:
                self._abandon_log(error)

    def append(self, deltas: Sequence[str]) -> None:
        """Add to the reply, and publish it to the readers.

        Raises:
            OutputLimit: the reply would exceed the size limit; the deltas that fit have been added.
        """
        if self.first_delta_at is None:
            self.first_delta_at = anyio.current_time()
            self._observer.observe(FirstDelta(self.turn, self.first_delta_at - self.started_at))
        deltas = self.reply.add(deltas)
        if self._log is not None:
            try:
                self._log.append(deltas)
            except Exception as error:
                self._abandon_log(error)
        if self.reply.exceeded:
            raise OutputLimit(f"The reply exceeded {self.reply.max_bytes} bytes.")

    async def close(self, end: End) -> None:
        """Tell the readers how the turn ended."""
        if self._log is not None:
            try:
                with anyio.fail_after(self._close_timeout):
                    await self._log.close(end)
            except Exception as error:
                self._abandon_log(error)

    async def release_lease(self, *, turn_ended: bool = False) -> None:
        """Admit the next turn of the conversation. Never raises. `turn_ended`: the history has stored the end."""
        await release(self.lease, self._observer, within=self._close_timeout, turn_ended=turn_ended)

    def abandon_log(self) -> None:
        """End the log for its readers, unless it is closed; the turn itself goes on."""
        log, self._log = self._log, None
        if log is not None:
            log.abandon()

    def _abandon_log(self, error: Exception) -> None:
        self._observer.observe(BackgroundFailure(Where.WRITING_EVENTS, error))
        self.abandon_log()
