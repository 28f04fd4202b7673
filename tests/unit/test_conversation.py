"""Ids, and the states in which a turn ends."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from application.ports.llm import LLMDisconnected
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Turn, TurnId, TurnStatus, UserId
from domain.errors import Cancelled, ChatError, ClientDisconnected, ServerShuttingDown, TurnDeadline, WorkerLost
from tests.harness.corpus import BAD_IDS, GOOD_IDS

BEGUN = Turn(
    id=TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"),
    user_id=UserId("user123"),
    conversation_id=DEFAULT_CONVERSATION,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    user_message="Hello",
)


@pytest.mark.parametrize("kind", [UserId, ConversationId])
@pytest.mark.parametrize("text", GOOD_IDS)
def test_a_valid_id_equals_its_text(kind: type[str], text: str) -> None:
    assert text == kind(text)


@pytest.mark.parametrize("kind", [UserId, ConversationId])
@pytest.mark.parametrize("text", BAD_IDS)
def test_an_invalid_id_is_rejected_with_the_rules(kind: type[str], text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be 1 to 128 characters, start with an ASCII letter or digit, "):
        kind(text)


def test_the_error_does_not_quote_the_invalid_id() -> None:
    with pytest.raises(ValueError, match="must be") as error:
        UserId("*canary*")

    assert "canary" not in str(error.value)


def test_a_new_turn_is_in_progress_without_reply_or_reason() -> None:
    assert (BEGUN.status, BEGUN.reply, BEGUN.reason) == (TurnStatus.IN_PROGRESS, "", None)


def test_a_turn_that_finished_with_stop_has_no_reason() -> None:
    expected = replace(BEGUN, reply="Hi", status=TurnStatus.COMPLETED, reason=None)

    assert expected == BEGUN.completed("Hi", "stop")


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "something_new"])
def test_any_other_finish_reason_is_the_reason_of_the_turn(finish_reason: str) -> None:
    expected = replace(BEGUN, reply="Hi", status=TurnStatus.COMPLETED, reason=finish_reason)

    assert expected == BEGUN.completed("Hi", finish_reason)


def test_an_empty_reply_with_a_finish_reason_completes_the_turn() -> None:
    assert BEGUN.completed("", "stop").status == TurnStatus.COMPLETED


@pytest.mark.parametrize("error", [LLMDisconnected(), TurnDeadline(), WorkerLost()])
def test_an_error_before_any_text_fails_the_turn(error: ChatError) -> None:
    expected = replace(BEGUN, status=TurnStatus.FAILED, reason=error.code)

    assert expected == BEGUN.ended_by(error)


@pytest.mark.parametrize("error", [LLMDisconnected(), TurnDeadline(), WorkerLost()])
def test_an_error_after_some_text_interrupts_the_turn_and_keeps_the_text(error: ChatError) -> None:
    expected = replace(BEGUN, reply="Hel", status=TurnStatus.INTERRUPTED, reason=error.code)

    assert expected == BEGUN.ended_by(error, "Hel")


@pytest.mark.parametrize("error", [Cancelled(), ClientDisconnected(), ServerShuttingDown()])
@pytest.mark.parametrize("reply", ["", "Hel"])
def test_a_cancelled_turn_is_interrupted_even_without_text(reply: str, error: ChatError) -> None:
    expected = replace(BEGUN, reply=reply, status=TurnStatus.INTERRUPTED, reason=error.code)

    assert expected == BEGUN.ended_by(error, reply)
