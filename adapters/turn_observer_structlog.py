"""Turn events as log lines."""

import logging
import time
from collections.abc import Callable

import structlog

from application.ports.history import HistoryError
from application.ports.llm import LLMAuthFailed, LLMError, LLMRedirected
from application.ports.memory import MemoryLeaked
from application.ports.turn_observer import (
    AbandonedTurnsEnded,
    BackgroundFailure,
    Event,
    TurnEnded,
    TurnObserver,
    TurnRejected,
)
from domain.conversation import Turn, TurnStatus, UserId
from domain.errors import ChatError, InternalError


class TurnObserverStructlog(TurnObserver):
    """Logs ids, codes and figures, never what was said.

    `pseudonym` replaces a user's id with one that may appear in a log. Rejected credentials are logged as an error
    once per `auth_error_interval` seconds, and as a warning in between: every turn fails until the operator reacts.
    """

    def __init__(
        self,
        pseudonym: Callable[[UserId], str],
        *,
        auth_error_interval: float = 60,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pseudonym = pseudonym
        self._auth_error_interval = auth_error_interval
        self._log = structlog.get_logger()
        self._clock = clock
        self._last_auth_error = -auth_error_interval

    def observe(self, event: Event) -> None:
        match event:
            case TurnEnded():
                self._turn_ended(event)
            case TurnRejected(user_id, _, error):
                level = logging.WARNING if isinstance(error, HistoryError) else logging.INFO
                self._log.log(level, "turn rejected", user=self._pseudonym(user_id), reason=error.code)
            case BackgroundFailure(where, MemoryLeaked() as error):
                self._log.error("failed", where=where, security=True, exc_info=error)
            case BackgroundFailure(where, error):
                self._log.warning("failed", where=where, exc_info=error)
            case AbandonedTurnsEnded(count):
                self._log.warning("abandoned turns ended", count=count)

    def _turn_ended(self, event: TurnEnded) -> None:
        turn, error, usage = event.turn, event.error, event.turn.usage
        first = event.first_delta_seconds
        self._log.log(
            self._level(turn, error),
            f"turn {turn.status}",
            turn_id=turn.id,
            user=self._pseudonym(turn.user_id),
            reason=turn.reason,
            seconds=round(event.seconds, 3),
            first_delta_seconds=None if first is None else round(first, 3),
            deltas=event.deltas,
            prompt_tokens=usage and usage.prompt_tokens,
            completion_tokens=usage and usage.completion_tokens,
            memories=event.memories,
            **({"usage_estimated": True} if usage is not None and usage.estimated else {}),
            **({"attempts": error.attempts} if isinstance(error, LLMError) else {}),
            **({"security": True} if isinstance(error, LLMRedirected) else {}),
            **({"exc_info": error} if isinstance(error, InternalError) else {}),
        )

    def _level(self, turn: Turn, error: ChatError | None) -> int:
        if error is None and turn.status is not TurnStatus.COMPLETED:  # another worker ended it
            return logging.WARNING
        if isinstance(error, LLMAuthFailed):
            now = self._clock()
            if now - self._last_auth_error < self._auth_error_interval:
                return logging.WARNING
            self._last_auth_error = now
            return logging.ERROR
        if isinstance(error, (HistoryError, InternalError, LLMRedirected)):
            return logging.ERROR
        return logging.WARNING if isinstance(error, LLMError) else logging.INFO
