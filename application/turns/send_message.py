"""SendMessage: begin a turn, and have its reply generated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import anyio

from application.ports.conversation_leases import ConversationLeases, Lease
from application.ports.history import ConversationHistory, TurnBegin, TurnEnd
from application.ports.live_turns import Batch, End, EventLog, LiveTurns, LiveTurnsUnavailable
from application.ports.turn_observer import (
    BackgroundFailure,
    TurnBegun,
    TurnEnded,
    TurnObserver,
    TurnRejected,
    Where,
)
from application.turns.admission import admit
from application.turns.context_window import ContextWindow
from application.turns.handle import EndedReader, TurnHandle
from application.turns.keyed_turns import KeyedTurns
from application.turns.leases import release
from application.turns.new_message import NewMessage, WhenBusy
from application.turns.runner import TurnRunner
from application.turns.running import RunningTurn
from application.turns.superseding import Superseding
from domain.conversation import Turn, TurnId
from domain.errors import ChatError, Failure, InternalError, ServerShuttingDown, TurnInProgress, TurnNotFound
from domain.idempotency import IdempotencyKey
from domain.reply import MAX_REPLY_BYTES
from domain.resent import MAX_STORED, kept


@dataclass(frozen=True)
class SendMessage:
    """Begin a turn: durable before the model is asked, generated in a task of its own, followed through a handle."""

    history: ConversationHistory
    live_turns: LiveTurns
    leases: ConversationLeases
    keyed_turns: KeyedTurns
    superseding: Superseding
    runner: TurnRunner
    observer: TurnObserver
    now: Callable[[], datetime]
    new_turn_id: Callable[[], TurnId]
    instructions: str
    window: ContextWindow
    max_message_chars: int
    max_reply_bytes: int = MAX_REPLY_BYTES
    queue_timeout: float = 10.0
    """Seconds that a turn waits for the previous one of its conversation."""
    open_timeout: float = 5.0
    """Seconds that opening and joining the event log of a turn may take."""

    async def __call__(self, message: NewMessage) -> TurnHandle:
        """Return once the turn has begun; its events and its end are read from the handle.

        Raises:
            MessageTooLong, ContextTooLong: the message alone exceeds a limit.
            TurnInProgress: the conversation stayed busy, or the turn of the key runs but cannot be followed.
            IdempotencyKeyReused: the key or the turn id names another message.
            StreamExpired: the events after `after` are no longer kept.
            LiveTurnsUnavailable: the turn of the key cannot be followed at the moment.
            ServerShuttingDown: turns are no longer accepted.
            HistoryUnavailable: the message could not be stored; the model was not asked.
        """
        wait = 0 if message.when_busy is WhenBusy.REJECT else self.queue_timeout
        try:
            if (named := message.idempotency_key) is not None:
                return await self._send_once(message, named, wait)
            if message.repetition:
                repeated = await self.keyed_turns.of_repeated(message, self.now())
                if repeated is not None:
                    return repeated
            handle = await self._send(message, None, wait)
        except ChatError as error:
            self.observer.observe(TurnRejected(message.user_id, message.conversation_id, error))
            raise
        assert handle is not None, "only a key can name an earlier turn"
        return handle

    async def _send_once(self, message: NewMessage, named: IdempotencyKey, wait: float) -> TurnHandle:
        """Follow the turn that the key names. If it names none, or one that failed, begin a turn."""
        give_up_at = anyio.current_time() + wait
        while True:
            async with self.keyed_turns.locked(named):
                found = await self._find_or_send(message, named, give_up_at)
            handle = await self.keyed_turns.follow(found, message.after) if isinstance(found, Turn) else found
            if handle is not None:
                return handle

    async def _find_or_send(
        self, message: NewMessage, named: IdempotencyKey, give_up_at: float
    ) -> Turn | TurnHandle | None:
        """Return the turn that the key names, or begin one. None if another worker has begun it meanwhile."""
        turn = await self.keyed_turns.find(named)  # first, because lease and limits must not stop a retry
        if turn is not None:
            return turn
        try:
            return await self._send(message, named, max(0, give_up_at - anyio.current_time()))
        except TurnInProgress:  # perhaps with the turn of this key, which another worker has begun
            turn = await self.keyed_turns.find(named)
            if turn is None:
                raise
            return turn

    async def _send(self, message: NewMessage, key: IdempotencyKey | None, wait: float) -> TurnHandle | None:
        """Begin a turn, unless the key names one that another worker has begun meanwhile: then return None."""
        self._admit(message)
        turn_id, conversation = self.new_turn_id(), (message.user_id, message.conversation_id)
        # Otherwise the conversation must not change between the look for turns to be retracted and the begin.
        tentative = message.resent is None and not message.repetition
        try:  # the conversation is nearly always free
            lease = await self.leases.acquire(turn_id, *conversation, wait=0, tentative=tentative)
            return await self._begin_shielded(message, turn_id, key, lease)
        except TurnInProgress:
            pass
        if message.when_busy is WhenBusy.INTERRUPT:
            lease = await self.superseding.acquire(turn_id, *conversation, key, wait)
        else:
            lease = await self.leases.acquire(turn_id, *conversation, wait=wait)
        return await self._begin_shielded(message, turn_id, key, lease)

    async def _begin_shielded(
        self, message: NewMessage, turn_id: TurnId, key: IdempotencyKey | None, lease: Lease
    ) -> TurnHandle | None:
        with anyio.CancelScope(shield=True):  # a stored turn must have a task that ends it
            handle = await self._begin(message, turn_id, key, lease)
        return handle  # noqa: RET504  # for mypy, which assumes that the scope suppresses exceptions

    def _admit(self, message: NewMessage) -> None:
        if self.runner.draining:
            raise ServerShuttingDown
        admit(message.text, message.reply, self.instructions, self.window, self.max_message_chars)

    async def _begin(
        self, message: NewMessage, turn_id: TurnId, key: IdempotencyKey | None, lease: Lease
    ) -> TurnHandle | None:
        try:
            if self.runner.draining:
                raise ServerShuttingDown
            turn = Turn(
                turn_id, message.user_id, message.conversation_id, self.now(), message.text, chosen_id=message.turn_id
            )
            stored = await self._store(message, turn, key, takes_conversation=lease.kept_in_history)
        except BaseException as error:
            if not (lease.kept_in_history and isinstance(error, TurnInProgress)):  # which says that it has no lease
                await release(lease, self.observer)
            raise
        if stored.id != turn.id:
            await release(lease, self.observer)
            return None
        self.observer.observe(TurnBegun(turn))
        return await self._start(message, turn, lease)

    async def _store(
        self, message: NewMessage, turn: Turn, key: IdempotencyKey | None, *, takes_conversation: bool
    ) -> Turn:
        """Store the turn, or return the one that the key names. Retracts what the client does not show any more."""
        if key is None and message.repetition is not None:
            key = IdempotencyKey.of_turn(turn.id, message.principal, message.user_id, message.digest)
        begin = TurnBegin(
            turn,
            self.runner.lease,
            key,
            takes_conversation=takes_conversation,
            retracts_from=await self._retracted(message),
        )
        try:
            return await self.history.begin(begin)
        except TurnNotFound:  # the conversation has been deleted meanwhile
            return await self.history.begin(replace(begin, retracts_from=None))

    async def _retracted(self, message: NewMessage) -> TurnId | None:
        """Return the first stored turn that the client does not show any more, if there is one."""
        if message.resent is None:
            return await self.keyed_turns.broken_off(message) if message.repetition else None
        stored = await self.history.messages(message.user_id, message.conversation_id, MAX_STORED)
        shown = kept([message for _, message in stored], message.resent)
        return stored[shown][0] if shown < len(stored) else None

    async def _start(self, message: NewMessage, turn: Turn, lease: Lease) -> TurnHandle:
        running = RunningTurn(
            turn,
            lease,
            self.observer,
            use_memory=message.use_memory,
            request=message.reply,
            max_reply_bytes=self.max_reply_bytes,
        )
        log: EventLog | None = None
        try:
            with anyio.fail_after(self.open_timeout):
                log = await self.live_turns.open(turn, running.stop, stop_when_left=not message.keep_running)
                reader = await self.live_turns.join(turn.id, turn.user_id)
        except Exception as error:
            if log is not None:
                log.abandon()
            return await self._fail(running, error)
        running.attach(log)
        self.runner.start(running)
        return TurnHandle(turn, reader)

    async def _fail(self, running: RunningTurn, error: Exception) -> TurnHandle:
        """End a turn that cannot be followed, before the model is asked."""
        failure = _failure(error)
        ended = running.turn.ended_by(failure)
        self.observer.observe(BackgroundFailure(Where.WRITING_EVENTS, error))
        is_stored = False
        try:
            await self.history.finish(TurnEnd(ended))
            is_stored = True
        except Exception as unstored:  # the turn is ended as abandoned when its lease expires
            self.observer.observe(BackgroundFailure(Where.STORING_END, unstored))
        await running.release_lease(turn_ended=is_stored)
        self.observer.observe(TurnEnded(ended, failure, seconds=anyio.current_time() - running.started_at))
        events = Batch(1, (), accepted=False, end=End(None, Failure.of(failure)))
        return TurnHandle(running.turn, EndedReader(events))


def _failure(error: Exception) -> ChatError:
    if isinstance(error, TimeoutError):
        return LiveTurnsUnavailable()
    return error if isinstance(error, ChatError) else InternalError()
