"""LiveTurns within one process."""

from adapters.event_logs import EventLogs, RunningLog
from application.ports.live_turns import EventLog, LiveTurns, Reader, Stop
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, Interruption, StreamExpired


class LiveTurnsInProcess(LiveTurns):
    """Follows in-flight turns within one process. Never unavailable. `EventLogs` describes the limits."""

    def __init__(
        self,
        *,
        retention: float = 600,
        max_events: int = 10_000,
        max_bytes: int = 512_000,
        max_retained_bytes: int = 64_000_000,
    ) -> None:
        self._logs: EventLogs[RunningLog] = EventLogs(
            retention=retention, max_events=max_events, max_bytes=max_bytes, max_retained_bytes=max_retained_bytes
        )

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        log = RunningLog(turn, stop, self._logs, stop_when_left=stop_when_left)
        self._logs.add(log)
        return log

    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        log = self._log_of(turn_id, owner)
        if log is None:
            raise StreamExpired
        return self._logs.join(log, after)

    async def stop(
        self,
        turn_id: TurnId,
        owner: UserId | None,
        interruption: Interruption = Cancelled(),  # noqa: B008  # immutable
    ) -> None:
        log = self._log_of(turn_id, owner)
        if log is not None:
            log.stop(interruption)
            await log.wait_for_end()

    async def stop_when_left(self, turn_id: TurnId, owner: UserId | None) -> None:
        log = self._log_of(turn_id, owner)
        if log is not None:
            log.require_readers()

    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        for log in self._logs.of(user_id, conversation_id):
            self._logs.discard(log)

    def _log_of(self, turn_id: TurnId, owner: UserId | None) -> RunningLog | None:
        log = self._logs.get(turn_id)
        return log if log is not None and owner in (None, log.user_id) else None
