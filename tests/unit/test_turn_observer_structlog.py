"""Log lines about turns: levels and figures, without messages, replies or user ids."""

import sqlite3
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from adapters.error_translation import ForeignError
from adapters.turn_observer_structlog import TurnObserverStructlog
from application.ports.history import HistoryLost, HistoryUnavailable, HistoryWriteFailed
from application.ports.llm import (
    LLMAuthFailed,
    LLMContentRefused,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMRateLimited,
    LLMRedirected,
)
from application.ports.memory import MemoryLeaked
from application.ports.turn_observer import (
    AbandonedTurnsEnded,
    BackgroundFailure,
    ContextWindowExceeded,
    ReplyLimitLowered,
    Store,
    StoreFailing,
    StoreRecovered,
    TurnEnded,
    TurnFenced,
    TurnRejected,
    Where,
)
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, Usage, UserId
from domain.errors import (
    Cancelled,
    ChatError,
    ClientDisconnected,
    ContextTooLong,
    InternalError,
    ServerShuttingDown,
    TurnDeadline,
    TurnInProgress,
    WorkerLost,
)

BEGUN = Turn(
    id=TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"),
    user_id=UserId("canary-user"),
    conversation_id=DEFAULT_CONVERSATION,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    user_message="canary-question",
)
REPLY = "canary-reply"
USAGE = Usage(10, 4)


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """Capture log lines."""
    before = structlog.get_config()
    capture = LogCapture()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    yield capture.entries
    structlog.configure(**before)


@pytest.fixture
def observer(lines: list[MutableMapping[str, Any]]) -> TurnObserverStructlog:
    return TurnObserverStructlog(lambda user_id: f"pseudonym of {len(user_id)}")


def ended(turn: Turn, error: ChatError | None = None) -> TurnEnded:
    return TurnEnded(turn, error, seconds=1.23456, first_delta_seconds=0.12345, deltas=7, memories=2)


def interrupt(observer: TurnObserverStructlog, error: ChatError) -> None:
    observer.observe(ended(BEGUN.ended_by(error, REPLY, USAGE), error))


@pytest.mark.row("U10")
def test_a_completed_turn_is_logged_in_one_line_with_its_figures(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(ended(BEGUN.completed(REPLY, "length", USAGE)))

    assert lines == [
        {
            "log_level": "info",
            "event": "turn completed",
            "turn_id": BEGUN.id,
            "user": "pseudonym of 11",
            "reason": "length",
            "seconds": 1.235,
            "first_delta_seconds": 0.123,
            "deltas": 7,
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "memories": 2,
        }
    ]


def test_unknown_figures_are_none(observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]) -> None:
    observer.observe(TurnEnded(BEGUN.completed("", "stop"), None, 1.0, None, 0, None))

    figures = ("first_delta_seconds", "prompt_tokens", "completion_tokens", "memories")
    assert [lines[0][name] for name in figures] == [None] * 4


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (Cancelled(), "info"),
        (ClientDisconnected(), "info"),
        (ServerShuttingDown(), "info"),
        (TurnDeadline(), "info"),
        (LLMDisconnected(), "warning"),
        (LLMRateLimited(), "warning"),
        (LLMAuthFailed(), "error"),
        (LLMContentRefused(), "warning"),
        (LLMContextTooLong(), "warning"),
        (ContextTooLong(), "warning"),
        (LLMRedirected(), "error"),
        (HistoryUnavailable(), "error"),
        (HistoryWriteFailed(), "error"),
        (InternalError(), "error"),
    ],
    ids=lambda value: getattr(value, "code", value),
)
@pytest.mark.row("S2")
def test_the_level_depends_on_the_error(
    error: ChatError, level: str, observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    interrupt(observer, error)

    assert (level, "turn interrupted", error.code) == (lines[0]["log_level"], lines[0]["event"], lines[0]["reason"])


def test_the_number_of_attempts_is_logged_if_the_model_failed(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    error = LLMDisconnected()
    error.attempts = 2
    interrupt(observer, error)

    assert lines[0]["attempts"] == 2


def test_facts_about_an_error_replace_no_field_of_the_line(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    error = LLMDisconnected()
    error.diagnosis = {"reason": "self-signed certificate", "user": "canary", "cause": "certificate"}
    interrupt(observer, error)
    observer.observe(TurnRejected(BEGUN.user_id, DEFAULT_CONVERSATION, error))

    fields = [(line["reason"], line["user"], line["cause"]) for line in lines]
    assert fields == [(error.code, "pseudonym of 11", "certificate")] * 2


def test_a_redirect_is_marked_as_a_security_event(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    interrupt(observer, LLMRedirected())
    interrupt(observer, LLMDisconnected())

    assert [line.get("security") for line in lines] == [True, None]


def test_rejected_credentials_are_logged_as_an_error_at_most_once_a_minute(
    lines: list[MutableMapping[str, Any]],
) -> None:
    times = [0, 1, 59.9, 60.1, 61, 119, 121]
    observer = TurnObserverStructlog(str, clock=iter(times).__next__)
    for _ in times:
        interrupt(observer, LLMAuthFailed())

    levels = ["error", "warning", "warning", "error", "warning", "warning", "error"]
    assert [line["log_level"] for line in lines] == levels


def test_a_background_failure_is_a_warning_with_the_failed_operation(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    error = HistoryUnavailable()
    error.__cause__ = sqlite3.OperationalError("canary")
    observer.observe(BackgroundFailure(Where.SAVING_PROGRESS, error))

    assert lines == [
        {
            "log_level": "warning",
            "event": "failed",
            "where": "saving the text so far",
            "reason": "history_unavailable",
            "detail": "The history is unavailable.",
            "cause": "sqlite3.OperationalError",
        }
    ]


@pytest.mark.parametrize("bug", [KeyError(), InternalError()], ids=repr)
def test_an_unexpected_exception_in_the_background_is_logged_with_its_traceback(
    bug: Exception, observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(BackgroundFailure(Where.RECALLING, bug))

    assert lines == [{"log_level": "warning", "event": "failed", "where": "recalling memories", "exc_info": bug}]


def test_a_background_failure_of_the_history_is_logged_with_its_explanation_instead_of_a_traceback(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(BackgroundFailure(Where.SAVING_PROGRESS, HistoryUnavailable(explanation="The disk is full.")))

    assert [(line["log_level"], line["detail"]) for line in lines] == [("warning", "The disk is full.")]
    assert "exc_info" not in lines[0]


def test_repeated_failures_of_the_history_are_warnings_once_a_minute_for_each_activity(
    lines: list[MutableMapping[str, Any]],
) -> None:
    saving, storing = Where.SAVING_PROGRESS, Where.STORING_END
    times = {0: saving, 1: saving, 2: storing, 59: saving, 61: saving, 61.5: storing, 63: storing}
    observer = TurnObserverStructlog(str, clock=iter(times).__next__)
    for where in times.values():
        observer.observe(BackgroundFailure(where, HistoryUnavailable(explanation="The disk is full.")))

    assert [line["where"] for line in lines if line["log_level"] == "warning"] == [saving, storing, saving, storing]


def test_a_failing_store_is_a_warning_and_its_recovery_is_not(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(StoreFailing(HistoryUnavailable(explanation="The disk is full."), 0.0))
    observer.observe(StoreRecovered(61.04))
    observer.observe(StoreFailing(HistoryUnavailable(explanation="The disk is full."), 0.0, Store.API_KEYS))
    observer.observe(StoreRecovered(61.04, Store.API_KEYS))

    assert lines == [
        {"log_level": "warning", "event": "history unavailable", "detail": "The disk is full.", "seconds": 0.0},
        {"log_level": "info", "event": "history available again", "seconds": 61.0},
        {"log_level": "warning", "event": "API keys unavailable", "detail": "The disk is full.", "seconds": 0.0},
        {"log_level": "info", "event": "API keys available again", "seconds": 61.0},
    ]


def test_a_lost_store_is_an_error(observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]) -> None:
    observer.observe(StoreFailing(HistoryLost(explanation="The file was removed."), 0.0))

    assert [(line["log_level"], line["detail"]) for line in lines] == [("error", "The file was removed.")]


def test_a_rejection_explains_why_the_history_is_unavailable(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    error = HistoryUnavailable(explanation="The disk is full.")
    error.__cause__ = sqlite3.OperationalError("canary")
    observer.observe(TurnRejected(UserId("11"), DEFAULT_CONVERSATION, error))

    assert (lines[0]["detail"], lines[0]["cause"]) == ("The disk is full.", "sqlite3.OperationalError")


def test_an_empty_reply_is_a_warning(observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]) -> None:
    for reply in ("", REPLY, ""):
        observer.observe(ended(BEGUN.completed(reply, "stop")))

    assert [line["log_level"] for line in lines] == ["warning", "info", "warning"]


def test_a_note_about_a_reply_is_a_warning_the_first_time(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    for notes in (["a"], ["a"], ["a", "b"], []):
        observer.observe(replace(ended(BEGUN.completed(REPLY, "unknown")), notes=notes))

    assert [(line["log_level"], line.get("notes")) for line in lines] == [
        ("warning", ["a"]),
        ("info", ["a"]),
        ("warning", ["a", "b"]),
        ("info", None),
    ]


@pytest.mark.parametrize("error", [None, LLMDisconnected(), InternalError(), Cancelled()])
def test_no_line_contains_a_message_a_reply_or_a_user_id(
    error: ChatError | None, observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    turn = BEGUN.ended_by(error, REPLY) if error else BEGUN.completed(REPLY, "stop")
    observer.observe(ended(turn, error))
    observer.observe(TurnRejected(BEGUN.user_id, BEGUN.conversation_id, error or Cancelled()))

    assert "canary" not in str(lines)


@pytest.mark.row("M5")
def test_a_leaked_memory_is_logged_as_a_security_event(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(BackgroundFailure(Where.CHECKING_OWNER, MemoryLeaked()))

    assert ("error", True, MemoryLeaked().detail) == tuple(
        lines[0][name] for name in ("log_level", "security", "detail")
    )


def test_what_was_learned_of_the_context_window_is_logged_with_the_settings_to_check(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(ContextWindowExceeded(5_000, 4_096, 14_000))
    observer.observe(ReplyLimitLowered(1_000, 984))

    assert lines == [
        {
            "log_level": "warning",
            "event": "prompts shortened to fit the model's context window; check CONTEXT_TOKENS and OPENAI_MAX_TOKENS",
            "request_tokens": 5_000,
            "window_tokens": 4_096,
            "context_tokens": 14_000,
        },
        {
            "log_level": "warning",
            "event": "reply limit lowered to fit the model's context window; check OPENAI_MAX_TOKENS",
            "max_tokens": 1_000,
            "lowered_to": 984,
        },
    ]


def test_estimated_usage_is_marked(observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]) -> None:
    observer.observe(ended(BEGUN.completed(REPLY, "stop", Usage(10, 4, estimated=True))))

    assert (10, 4, True) == tuple(lines[0][name] for name in ("prompt_tokens", "completion_tokens", "usage_estimated"))


@pytest.mark.parametrize(("error", "level"), [(TurnInProgress(), "info"), (HistoryUnavailable(), "warning")])
def test_a_rejected_message_is_logged_in_one_line_with_its_reason(
    error: ChatError, level: str, observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(TurnRejected(BEGUN.user_id, BEGUN.conversation_id, error))

    assert lines == [
        {
            "log_level": level,
            "event": "turn rejected",
            "user": "pseudonym of 11",
            "reason": error.code,
            "detail": error.detail,
        }
    ]


def test_a_rejection_names_what_failed_in_the_store(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    error = HistoryUnavailable()
    error.__cause__ = ForeignError("sqlite3.OperationalError")
    observer.observe(TurnRejected(BEGUN.user_id, BEGUN.conversation_id, error))

    assert lines[0]["cause"] == "sqlite3.OperationalError"


def diagnosed(error: LLMError) -> LLMError:
    error.diagnosis = {"http_status": 503, "host": "example.com", "provider_message": "Loading model"}
    error.request = {"model": "m", "max_tokens": 1000}
    return error


def test_a_failed_call_is_logged_with_its_diagnosis(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    interrupt(observer, diagnosed(LLMDisconnected()))

    assert lines[0].items() >= {"http_status": 503, "host": "example.com", "provider_message": "Loading model"}.items()
    assert lines[0]["detail"] == "The connection to the model service broke."
    assert "request" not in lines[0]


def test_the_diagnosis_of_the_refusal_that_caused_an_error_is_logged(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    error = ContextTooLong()
    error.__cause__ = diagnosed(LLMContextTooLong())
    interrupt(observer, error)

    assert (lines[0]["log_level"], lines[0]["http_status"]) == ("warning", 503)


def test_parameters_and_sizes_of_a_failed_request_are_logged_when_debugging(
    lines: list[MutableMapping[str, Any]],
) -> None:
    interrupt(TurnObserverStructlog(str, debug=True), diagnosed(LLMDisconnected()))

    assert lines[0]["request"] == {"model": "m", "max_tokens": 1000}


def test_abandoned_turns_are_a_warning(observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]) -> None:
    observer.observe(AbandonedTurnsEnded(3))

    assert lines == [{"log_level": "warning", "event": "abandoned turns ended", "count": 3}]


def test_a_fenced_turn_is_a_warning(observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]) -> None:
    observer.observe(TurnFenced(BEGUN.ended_by(WorkerLost(), REPLY)))

    [line] = lines
    assert ("warning", BEGUN.id, "worker_lost") == (line["log_level"], line["turn_id"], line["reason"])
    assert "fenced" in line["event"]


def test_a_turn_that_another_worker_ended_is_a_warning(
    observer: TurnObserverStructlog, lines: list[MutableMapping[str, Any]]
) -> None:
    observer.observe(ended(BEGUN.ended_by(WorkerLost(), REPLY)))

    assert ("warning", "worker_lost") == (lines[0]["log_level"], lines[0]["reason"])
