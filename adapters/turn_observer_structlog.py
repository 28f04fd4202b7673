"""Turn events as log lines."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from adapters.error_translation import ForeignError, foreign_error
from application.ports.history import HistoryError, HistoryLost, HistoryUnavailable
from application.ports.llm import LLMAuthFailed, LLMError, LLMRedirected
from application.ports.memory import MemoryLeaked
from application.ports.turn_observer import (
    AbandonedTurnsEnded,
    AuthenticationFailed,
    BackgroundFailure,
    ContextWindowExceeded,
    Event,
    ReplyLimitLowered,
    SigningKeysNotFetched,
    StoreFailing,
    StoreRecovered,
    TurnEnded,
    TurnFenced,
    TurnObserver,
    TurnRejected,
    Where,
)
from domain.conversation import Turn, TurnStatus, UserId
from domain.errors import ChatError, ContextTooLong, InternalError


class TurnObserverStructlog(TurnObserver):
    """Logs ids, codes, figures and diagnoses, never what was said. Tracebacks are logged of unexpected exceptions only.

    `pseudonym` replaces a user's id with one that may appear in a log. Rejected credentials are logged as an error
    once per `auth_error_interval` seconds, and as a warning in between: every turn fails until the operator reacts.
    Background failures of the history are warnings once per `history_warning_interval` seconds for each activity.
    With `debug`, lines about failed calls to the model include the parameters and sizes of the request.
    """

    def __init__(
        self,
        pseudonym: Callable[[UserId], str],
        *,
        debug: bool = False,
        auth_error_interval: float = 60,
        history_warning_interval: float = 60,
        clock: Callable[[], float] = time.monotonic,
        max_known_notes: int = 100,
    ) -> None:
        self._pseudonym = pseudonym
        self._debug = debug
        self._auth_error_interval = auth_error_interval
        self._history_warning_interval = history_warning_interval
        self._log = structlog.get_logger()
        self._clock = clock
        self._max_known_notes = max_known_notes
        self._known_notes: set[str] = set()
        self._last_auth_error = -auth_error_interval
        self._last_history_warnings: dict[Where, float] = {}

    def observe(self, event: Event) -> None:
        match event:
            case TurnEnded():
                self._turn_ended(event)
            case TurnRejected(user_id, _, error):
                level = logging.WARNING if isinstance(error, (HistoryError, ContextTooLong)) else logging.INFO
                fields = {**self._explained(error), "user": self._pseudonym(user_id), "reason": error.code}
                self._log.log(level, "turn rejected", **fields)
            case BackgroundFailure(where, MemoryLeaked() as error):
                self._log.error("failed", **self._explained(error), where=where, security=True)
            case BackgroundFailure(where, HistoryUnavailable() as error):
                level = self._level_of_history_failure(where)
                self._log.log(level, "failed", **self._explained(error), where=where, reason=error.code)
            case BackgroundFailure(where, ChatError() as error) if not isinstance(error, InternalError):
                self._log.warning("failed", **self._explained(error), where=where, reason=error.code)
            case BackgroundFailure(where, bug):
                self._log.warning("failed", where=where, exc_info=bug)
            case StoreFailing(error, seconds, store):
                level = logging.ERROR if isinstance(error, HistoryLost) else logging.WARNING
                self._log.log(level, f"{store} unavailable", detail=_detail(error), seconds=round(seconds, 1))
            case StoreRecovered(seconds, store):
                self._log.info(f"{store} available again", seconds=round(seconds, 1))
            case AuthenticationFailed(cause, address, key_id, throttled):
                level = logging.DEBUG if throttled else logging.WARNING
                self._log.log(level, "authentication failed", cause=cause, address=address, key_id=key_id)
            case SigningKeysNotFetched(explanation, stale_for):
                age = None if stale_for is None else round(stale_for)
                self._log.warning("signing keys not fetched", detail=explanation, known_for_seconds=age)
            case AbandonedTurnsEnded(count):
                self._log.warning("abandoned turns ended", count=count)
            case TurnFenced(turn):
                fields = {"turn_id": turn.public_id, "user": self._pseudonym(turn.user_id), "reason": turn.reason}
                self._log.warning("turn fenced: another worker had ended it", **fields)
            case ContextWindowExceeded(request, window, budget):
                self._log.warning(
                    "prompts shortened to fit the model's context window; check CONTEXT_TOKENS and OPENAI_MAX_TOKENS",
                    request_tokens=request,
                    window_tokens=window,
                    context_tokens=budget,
                )
            case ReplyLimitLowered(max_tokens, lowered):
                self._log.warning(
                    "reply limit lowered to fit the model's context window; check OPENAI_MAX_TOKENS",
                    max_tokens=max_tokens,
                    lowered_to=lowered,
                )

    def _turn_ended(self, event: TurnEnded) -> None:
        turn, error, usage = event.turn, event.error, event.turn.usage
        first = event.first_delta_seconds
        fields = {
            **(self._explained(error) if error else {}),  # first: no fact about an error may replace a field below
            "turn_id": turn.public_id,
            "user": self._pseudonym(turn.user_id),
            "reason": turn.reason,
            "seconds": round(event.seconds, 3),
            "first_delta_seconds": None if first is None else round(first, 3),
            "deltas": event.deltas,
            "prompt_tokens": usage and usage.prompt_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "memories": event.memories,
            **({"notes": list(event.notes)} if event.notes else {}),
            **({"usage_estimated": True} if usage is not None and usage.estimated else {}),
            **({"security": True} if isinstance(error, LLMRedirected) else {}),
            **({"exc_info": error} if isinstance(error, InternalError) else {}),
        }
        self._log.log(max(self._level(turn, error), self._level_of_reply(event)), f"turn {turn.status}", **fields)

    def _level_of_history_failure(self, where: Where) -> int:
        now, last = self._clock(), self._last_history_warnings.get(where)
        if last is not None and now - last < self._history_warning_interval:
            return logging.DEBUG
        self._last_history_warnings[where] = now
        return logging.WARNING

    def _level_of_reply(self, event: TurnEnded) -> int:
        """Warn of each empty reply, and of what is unusual about others once."""
        empty = event.turn.status is TurnStatus.COMPLETED and not event.turn.reply
        new = set(event.notes) - self._known_notes
        if len(self._known_notes) < self._max_known_notes:
            self._known_notes |= new
        return logging.WARNING if empty or new else logging.INFO

    def _explained(self, error: ChatError) -> Mapping[str, Any]:
        """Return what is known about the reason of a failure."""
        llm_error = error.__cause__ if isinstance(error.__cause__, LLMError) else error
        fields: dict[str, Any] = {"detail": _detail(error)}
        if isinstance(llm_error, LLMError):
            fields |= {"attempts": llm_error.attempts, **llm_error.diagnosis}
            if self._debug and llm_error.request:
                fields["request"] = llm_error.request
        elif error.__cause__ and not isinstance(error, InternalError):  # whose exception is logged
            cause = error.__cause__
            fields["cause"] = str(cause if isinstance(cause, ForeignError) else foreign_error(cause))
        return fields

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
        return logging.WARNING if isinstance(error, (LLMError, ContextTooLong)) else logging.INFO


def _detail(error: ChatError) -> str:
    """Return the sentence for the operator, which may say more than that for the client."""
    if isinstance(error, HistoryUnavailable) and error.explanation:
        return error.explanation
    return error.detail
