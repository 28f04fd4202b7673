"""The history checker reports planted defects, by the rule that they break, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.harness.history_checker import check
from tests.harness.observations import Deletion, Observations, Outcome, Prompt, Read, Sent, Stored

GRACE = 20.0


def reply_of(message: str) -> str:
    return f"re {message} one two"


def sent(message: str, started: float, ended: float, outcome: Outcome = Outcome.OK, **fields: str) -> Sent:
    reply = reply_of(message) if outcome is Outcome.OK else ""
    return Sent(message, "ann", fields.get("conversation", "a"), started, ended, outcome, reply)


def turn(message: str, status: str = "completed", reply: str | None = None, *, conversation: str = "a") -> Stored:
    return Stored(f"id-{message}", conversation, message, reply_of(message) if reply is None else reply, status)


def read(started: float, *turns: Stored | str, ended: float = 0) -> Read:
    whole = [turn(item) if isinstance(item, str) else item for item in turns]
    return Read("ann", started, ended or started + 0.1, whole, worker=f"w{started:g}")


def prompt(message: str, *earlier: str, at: float = 0) -> Prompt:
    pairs = [("user", told) for told in earlier for _ in range(1)]
    messages = [part for user in pairs for part in (user, ("assistant", reply_of(user[1])))]
    return Prompt(at, [("system", "Be helpful."), *messages, ("user", message)])


def deletion(started: float, ended: float, outcome: Outcome = Outcome.OK, conversation: str | None = None) -> Deletion:
    return Deletion("ann", conversation, started, ended, outcome)


def rules(
    sent: Sequence[Sent] = (),
    reads: Sequence[Read] = (),
    prompts: Sequence[Prompt] = (),
    deletions: Sequence[Deletion] = (),
    max_context: int = 50,
) -> set[str]:
    observed = Observations(list(sent), list(deletions), list(reads), list(prompts))
    return {found.rule for found in check(observed, reply_of=reply_of, grace=GRACE, max_context=max_context)}


TWO = [sent("1", 1, 2), sent("2", 3, 4)]
UNKNOWN = [*TWO, sent("3", 5, 6, Outcome.INFO)]
REFUSED = [*TWO, sent("3", 5, 6, Outcome.FAIL)]


def test_a_correct_history_has_no_violations() -> None:
    prompts = [prompt("1", at=1.5), prompt("2", "1", at=3.5)]
    assert rules(TWO, [read(0), read(2.5, "1"), read(3.1, "1"), read(5, "1", "2")], prompts) == set()


def test_p1_an_acknowledged_turn_is_missing_at_the_end() -> None:
    assert rules(TWO, [read(5, "1")]) == {"P1"}


@pytest.mark.parametrize(
    "stored", [turn("2", "interrupted", "re 2"), turn("2", "failed", ""), turn("2", "in_progress", "")]
)
def test_p1_an_acknowledged_turn_has_another_end(stored: Stored) -> None:
    assert rules(TWO, [read(5, "1", stored)]) == {"P1"}


def test_p2_a_message_is_stored_twice() -> None:
    again = turn("1")._replace(turn_id="another")
    assert "P2" in rules(TWO, [read(5, "1", "2", again)])


def test_p2_a_turn_is_read_twice() -> None:
    assert "P2" in rules(TWO, [read(5, "1", "1", "2")])


def test_p3_readers_see_different_orders() -> None:
    concurrent = [sent("1", 1, 4), sent("2", 1, 4, conversation="b")]
    other = turn("2", conversation="b")
    assert rules(concurrent, [read(5, "1", other), read(5, "1", other)]) == set()
    assert rules(concurrent, [read(5, "1", other), read(5, other, "1")]) == {"P3"}


def test_p3_a_turn_appears_in_the_middle() -> None:
    concurrent = [sent("1", 1, 9), sent("2", 1, 9)]
    running = turn("2", "in_progress", "")
    assert rules(concurrent, [read(2, running), read(10, "2", "1")]) == set()
    assert rules(concurrent, [read(2, running), read(10, "1", "2")]) == {"P3"}


def test_p3_concurrent_readers_see_different_tails() -> None:
    concurrent = [sent("1", 1, 9), sent("2", 1, 9, conversation="b")]
    other = turn("2", "in_progress", "", conversation="b")
    done = other._replace(status="completed", reply=reply_of("2"))
    reads = [read(2, turn("1", "in_progress", "")), read(2, other), read(10, "1", done)]
    assert rules(concurrent, reads) == {"P3"}


def test_p3_a_turn_of_unknown_outcome_vanishes() -> None:
    assert rules(UNKNOWN, [read(7, "1", "2", "3"), read(8, "1", "2", "3")]) == set()
    assert rules(UNKNOWN, [read(7, "1", "2", "3"), read(8, "1", "2")]) == {"P3"}


@pytest.mark.parametrize("later", [turn("3", "completed"), turn("3", "in_progress", "re"), turn("3", "failed", "")])
def test_p3_the_end_of_a_turn_changes(later: Stored) -> None:
    lost = turn("3", "interrupted", "re 3")
    assert rules(UNKNOWN, [read(7, "1", "2", lost), read(8, "1", "2", lost)]) == set()
    assert rules(UNKNOWN, [read(7, "1", "2", lost), read(8, "1", "2", later)]) == {"P3"}


def test_p4_a_reply_belongs_to_another_message() -> None:
    mixed = turn("3", "interrupted", "re 1")
    assert rules(UNKNOWN, [read(7, "1", "2", mixed)]) == {"P4"}


def test_p4_a_completed_reply_is_cut() -> None:
    assert rules(UNKNOWN, [read(7, "1", "2", turn("3", "completed", "re 3"))]) == {"P4"}


def test_p4_two_turns_of_a_conversation_run_at_once() -> None:
    sends = [sent("1", 1, 9), sent("2", 1, 9), sent("3", 1, 9, conversation="b")]
    end = read(10, "1", "2", turn("3", conversation="b"))
    running = [turn("1", "in_progress", ""), turn("3", "in_progress", "", conversation="b")]
    early = read(3, running[0], turn("2", "in_progress", ""), running[1])
    assert rules(sends, [read(2, "1", turn("2", "in_progress", ""), running[1]), end]) == set()
    assert rules(sends, [early, end]) == {"P4"}


def test_p4_a_prompt_does_not_alternate() -> None:
    doubled = Prompt(3.5, [("user", "1"), ("user", "2")])
    assert rules(TWO, [read(5, "1", "2")], [doubled]) == {"P4"}


def test_p5_the_order_is_not_that_of_real_time() -> None:
    assert rules(TWO, [read(5, "2", "1")]) == {"P5"}
    apart = [sent("1", 1, 2, conversation="b"), sent("2", 3, 4)]
    assert rules(apart, [read(5, "2", turn("1", conversation="b"))]) == {"P5"}


def test_p5_concurrent_messages_come_in_any_order() -> None:
    assert rules([sent("1", 1, 4), sent("2", 3, 5)], [read(6, "2", "1")]) == set()


@pytest.mark.parametrize("earlier", [[], ["2"], ["2", "1"], ["1", "2", "2"], ["1"]])
def test_p6_a_prompt_is_not_what_comes_before(earlier: Sequence[str]) -> None:
    three = [*TWO, sent("3", 5, 6)]
    assert rules(three, [read(7, "1", "2", "3")], [prompt("3", "1", "2", at=5.5)]) == set()
    assert rules(three, [read(7, "1", "2", "3")], [prompt("3", *earlier, at=5.5)]) == {"P6"}


def test_p6_a_prompt_has_a_turn_that_comes_after() -> None:
    both = [sent("1", 1, 9), sent("2", 1, 9)]
    assert rules(both, [read(10, "1", "2")], [prompt("1", "2", at=5)]) == {"P6"}


def test_p6_a_prompt_has_another_text_than_the_history() -> None:
    three = [sent("1", 1, 2), sent("2", 3, 4, Outcome.INFO), sent("3", 5, 6)]
    lost = turn("2", "interrupted", "re 2")
    assert rules(three, [read(7, "1", lost, "3")], [prompt("3", "1", "2", at=5.5)]) == {"P6"}


def test_p6_a_prompt_has_the_turns_of_its_conversation_only() -> None:
    apart = [sent("1", 1, 2, conversation="b"), sent("2", 3, 4)]
    turns: list[Stored | str] = [turn("1", conversation="b"), "2"]
    assert rules(apart, [read(5, *turns)], [prompt("2", at=3.5)]) == set()
    assert rules(apart, [read(5, *turns)], [prompt("2", "1", at=3.5)]) == {"P6"}


def test_p6_a_turn_without_text_is_not_in_prompts() -> None:
    three = [sent("1", 1, 2), sent("2", 3, 4, Outcome.INFO), sent("3", 5, 6)]
    assert rules(three, [read(7, "1", turn("2", "failed", ""), "3")], [prompt("3", "1", at=5.5)]) == set()


def test_p6_a_long_history_is_told_by_its_latest_turns() -> None:
    three = [*TWO, sent("3", 5, 6)]
    reads = [read(7, "1", "2", "3")]
    assert rules(three, reads, [prompt("3", "2", at=5.5)], max_context=1) == set()
    assert rules(three, reads, [prompt("3", "1", at=5.5)], max_context=1) == {"P6"}
    assert rules(three, reads, [prompt("3", at=5.5)], max_context=1) == {"P6"}


def test_p6_a_prompt_whose_turn_is_in_no_read_has_what_was_acknowledged() -> None:
    assert rules(UNKNOWN, [read(30, "1", "2")], [prompt("3", "1", "2", at=5.5)]) == set()
    assert rules(UNKNOWN, [read(30, "1", "2")], [prompt("3", "1", at=5.5)]) == {"P6"}


def test_p7_a_later_read_lacks_an_acknowledged_turn() -> None:
    assert rules(TWO, [read(2.5), read(5, "1", "2")]) == {"P7"}
    assert rules(TWO, [read(1.5, ended=2.5), read(5, "1", "2")]) == set()


def test_p8_a_deleted_turn_is_read() -> None:
    three = [*TWO, sent("3", 7, 8)]
    assert rules(three, [read(4.5, "1", "2"), read(9, "3")], deletions=[deletion(5, 6)]) == set()
    assert rules(three, [read(4.5, "1", "2"), read(9, "1", "2", "3")], deletions=[deletion(5, 6)]) == {"P8"}


def test_p8_a_turn_of_unknown_outcome_that_was_read_is_deleted_too() -> None:
    deleted = [deletion(8, 9)]
    assert rules(UNKNOWN, [read(7, "1", "2", "3"), read(10)], deletions=deleted) == set()
    assert rules(UNKNOWN, [read(7, "1", "2", "3"), read(10, "3")], deletions=deleted) == {"P8"}


def test_p8_only_one_conversation_is_deleted() -> None:
    apart = [sent("1", 1, 2, conversation="b"), sent("2", 3, 4)]
    kept, gone = turn("1", conversation="b"), [deletion(5, 6, conversation="a")]
    assert rules(apart, [read(7, kept)], deletions=gone) == set()
    assert rules(apart, [read(7)], deletions=gone) == {"P1"}
    assert rules(apart, [read(7, kept, "2")], deletions=gone) == {"P8"}


def test_p8_a_turn_sent_during_a_deletion_is_before_or_after_it() -> None:
    both, gone = [sent("1", 1, 2), sent("2", 3, 9)], [deletion(5, 6)]
    assert rules(both, [read(10)], deletions=gone) == set()
    assert rules(both, [read(10, "2")], deletions=gone) == set()
    assert rules(both, [read(7), read(10, "2")], deletions=gone) == set()
    before = read(4.5, "1", turn("2", "in_progress", ""))
    assert rules(both, [before, read(10)], deletions=gone) == set()
    assert rules(both, [before, read(10, "2")], deletions=gone) == {"P8"}


def test_p8_a_turn_returns() -> None:
    both, gone = [sent("1", 1, 5.5)], [deletion(5, 6)]
    assert rules(both, [read(7), read(8)], deletions=gone) == set()
    assert rules(both, [read(7), read(8, "1")], deletions=gone) == {"P8"}


def test_p8_a_prompt_has_a_deleted_turn() -> None:
    three = [*TWO, sent("3", 7, 8)]
    gone = [deletion(5, 6)]
    assert rules(three, [read(9, "3")], [prompt("3", at=7.5)], gone) == set()
    assert "P8" in rules(three, [read(9, "3")], [prompt("3", "1", "2", at=7.5)], gone)


def test_p8_a_refused_deletion_deletes_nothing_and_one_of_unknown_outcome_may() -> None:
    assert rules(TWO, [read(7)], deletions=[deletion(5, 6, Outcome.FAIL)]) == {"P1"}
    assert rules(TWO, [read(7)], deletions=[deletion(5, 6, Outcome.INFO)]) == set()
    assert rules(TWO, [read(7, "1", "2")], deletions=[deletion(5, 6, Outcome.INFO)]) == set()


def test_p9_a_turn_of_unknown_outcome_appears_in_time_or_never() -> None:
    assert rules(UNKNOWN, [read(7, "1", "2"), read(30, "1", "2", "3")]) == set()
    assert rules(UNKNOWN, [read(30, "1", "2"), read(31, "1", "2")]) == set()
    assert rules(UNKNOWN, [read(30, "1", "2"), read(31, "1", "2", "3")]) == {"P9"}


def test_p9_a_lost_turn_runs_too_long() -> None:
    running = turn("3", "in_progress", "re 3")
    assert rules(UNKNOWN, [read(25, "1", "2", running)]) == set()
    assert rules(UNKNOWN, [read(27, "1", "2", running)]) == {"P9"}


def test_p9_a_refused_message_is_stored() -> None:
    assert rules(REFUSED, [read(7, "1", "2")]) == set()
    assert rules(REFUSED, [read(7, "1", "2", "3")]) == {"P9"}


def test_p9_a_message_that_was_never_sent_is_read_or_told_to_the_model() -> None:
    assert rules(TWO, [read(7, "1", "2", "3")]) == {"P9"}
    assert rules(TWO, [read(7, "1", turn("2", conversation="b"))]) == {"P9"}
    assert rules(TWO, [read(7, "1", "2")], [prompt("3", "1", "2")]) == {"P9"}


def test_a_failed_turn_of_a_key_may_be_replaced() -> None:
    keyed = replace(sent("1", 1, 9), keyed=True)
    failed = turn("1", "failed", "")._replace(turn_id="first")
    reads = [read(2, failed), read(3, failed, "2"), read(10, "2", "1")]
    assert rules([keyed, sent("2", 2, 3)], reads, [prompt("1", at=1.5), prompt("1", "2", at=4)]) == set()


def test_users_are_checked_apart() -> None:
    other = replace(sent("x", 1, 2), user_id="bob")
    reads = [read(5, "1", "2"), replace(read(5, "x"), user_id="bob")]
    assert rules([*TWO, other], reads) == set()
    assert rules([*TWO, other], [read(5, "1", "2", "x"), reads[1]]) == {"P9"}


def test_a_history_that_nobody_read_at_the_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="ann was not read"):
        rules(TWO, [read(3.5, "1")])
