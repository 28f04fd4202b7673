"""Turns as log lines."""

import logging
import time
from collections.abc import Callable

import structlog

from application.ports.history import HistoryError
from application.ports.llm import LLMAuthFailed, LLMError, LLMRedirected
from application.ports.memory import MemoryLeaked
from application.ports.turn_observer import TurnFigures, TurnObserver
from domain.conversation import Turn, UserId
from domain.errors import ChatError, InternalError

AUTH_INTERVAL = 60.0
"""Seconds between two errors about refused credentials: every turn fails until someone looks."""


class TurnObserverStructlog(TurnObserver):
    """For being told how turns fare, in the log: ids, codes and figures, never what was said.

    `pseudonym` makes of a user's id what may stand in a log.
    """

    def __init__(self, pseudonym: Callable[[UserId], str]) -> None:
        self._pseudonym = pseudonym
        self._log = structlog.get_logger()
        self._auth_error_at = -AUTH_INTERVAL

    def ended(self, turn: Turn, error: ChatError | None, figures: TurnFigures) -> None:
        first = figures.first_text_seconds
        self._log.log(
            self._level(error),
            f"turn {turn.status}",
            turn_id=turn.id,
            user=self._pseudonym(turn.user_id),
            reason=turn.reason,
            seconds=round(figures.seconds, 3),
            first_text_seconds=None if first is None else round(first, 3),
            texts=figures.texts,
            prompt_tokens=figures.usage and figures.usage.prompt_tokens,
            completion_tokens=figures.usage and figures.usage.completion_tokens,
            memories=figures.memories,
            **({"attempts": error.attempts} if isinstance(error, LLMError) else {}),
            **({"security": True} if isinstance(error, LLMRedirected) else {}),
            **({"exc_info": error} if isinstance(error, InternalError) else {}),
        )

    def failed(self, doing: str, error: Exception) -> None:
        if isinstance(error, MemoryLeaked):
            self._log.error("failed", doing=doing, security=True, exc_info=error)
        else:
            self._log.warning("failed", doing=doing, exc_info=error)

    def _level(self, error: ChatError | None) -> int:
        if isinstance(error, LLMAuthFailed):
            now = time.monotonic()
            if now - self._auth_error_at < AUTH_INTERVAL:
                return logging.WARNING
            self._auth_error_at = now
            return logging.ERROR
        if isinstance(error, (HistoryError, InternalError, LLMRedirected)):
            return logging.ERROR
        return logging.WARNING if isinstance(error, LLMError) else logging.INFO
