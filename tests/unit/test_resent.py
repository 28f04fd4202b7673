"""Which stored turns a client that sends the whole conversation still shows."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.resent import SentMessage, kept

texts = st.sampled_from(["yes", "no", "a", "b"])
conversations = st.lists(st.builds(SentMessage, texts, st.just(True)), max_size=8)


def said(text: str) -> list[SentMessage]:
    """Return one message per word; those with a question mark have no reply."""
    return [SentMessage(word.rstrip("?"), not word.endswith("?")) for word in text.split()]


@pytest.mark.parametrize(
    ("stored", "resent", "count"),
    [
        ("", "", 0),
        ("", "a b", 0),
        ("a b", "a b", 2),
        ("a b c", "a", 1),
        ("a b c", "", 0),
        ("a b c", "x", 0),
        ("a b", "a lost? b", 2),
        ("a b?", "a", 1),
        ("a b? c", "a c", 3),
        ("a b? c", "a", 1),
        ("c", "a b c", 1),
        ("c d", "a b c", 1),
        ("a b c d", "c d", 4),
        ("a b c d e", "c d", 4),
        ("yes a b yes c", "yes c", 5),
        ("yes yes yes", "yes", 1),
        ("a x b", "a y b", 1),
        ("a b c b", "b c", 3),
        ("a b c d", "a c d", 4),
        ("a b c d", "a c", 3),
        ("a b c d e f", "b e", 5),
        ("a b yes c yes", "a yes", 5),
        ("a b c d", "a d c", 1),
        ("a b c? d", "a d", 4),
        ("a b c?", "b c?", 3),
        ("a b c?", "b", 2),
    ],
)
def test_stored_turns_that_the_client_does_not_show_are_not_kept(stored: str, resent: str, count: int) -> None:
    assert count == kept(said(stored), said(resent))


@given(conversations, conversations)
def test_a_client_that_shows_a_beginning_keeps_exactly_that(shown: list[SentMessage], more: list[SentMessage]) -> None:
    assert len(shown) == kept([*shown, *more], shown)


@given(st.integers(0, 9))
def test_a_client_that_leaves_out_the_beginning_of_different_messages_keeps_everything(start: int) -> None:
    stored = [SentMessage(str(number), True) for number in range(10)]

    assert 10 == kept(stored, stored[start:])


@given(st.sets(st.integers(0, 9), max_size=9))
def test_a_client_that_leaves_out_some_of_different_messages_keeps_all_up_to_its_last(left_out: set[int]) -> None:
    stored = [SentMessage(str(number), True) for number in range(10)]
    resent = [message for number, message in enumerate(stored) if number not in left_out]

    assert int(resent[-1].text) + 1 == kept(stored, resent)


@pytest.mark.parametrize(
    "stored",
    [
        "What are oaks?",
        "Context.\nWhat are oaks?",
        "What are oaks?\n#### Code interpreter\nUse it.",
        "Context.\n\nWhat are oaks?\nUse the code interpreter.",
        "Context.\r\nWhat are oaks?\r\n",
    ],
)
def test_lines_that_were_added_around_a_message_do_not_matter(stored: str) -> None:
    before, after = SentMessage("Hello", True), SentMessage("And elms?", True)

    assert 3 == kept([before, SentMessage(stored, True), after], [before, SentMessage("What are oaks?", True), after])


@pytest.mark.parametrize(
    ("stored", "resent"),
    [
        (" Hi \n", "Hi"),
        ("Hi", "Hi\n"),
        ("One\r\ntwo", "One\ntwo"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("Cafe\u0301 " + "─" * 80 + " cafe\u0301", "Caf\u00e9 " + "─" * 80 + " caf\u00e9"),
    ],
)
def test_white_space_around_a_message_line_ends_and_forms_of_unicode_do_not_matter(stored: str, resent: str) -> None:
    assert 1 == kept([SentMessage(stored, True)], [SentMessage(resent, True)])


@pytest.mark.parametrize(
    ("stored", "resent"),
    [("Say yes", "yes"), ("yes, do", "yes"), ("Yes", "yes"), ("a  b", "a b"), ("One\n\nTwo", ""), ("\ufb01", "fi")],
)
def test_a_message_that_is_only_similar_is_another_one(stored: str, resent: str) -> None:
    assert 0 == kept([SentMessage(stored, True)], [SentMessage(resent, True)])


@pytest.mark.parametrize(
    ("stored", "resent"),
    [
        ([SentMessage("failed", False)] * 5_000, [SentMessage("a", True)] * 10_000),
        ([SentMessage("yes", True)] * 10_000, [*[SentMessage("yes", True)] * 5_000, SentMessage("a", True)]),
        ([SentMessage("x\n" * 16_000, False)] * 100, [SentMessage("a", True)] * 20_000),
        ([SentMessage("\na" * 200, False)] * 5_000, [SentMessage("a\n" * 90 + "b", False)] * 200_000),
        ([SentMessage("x", True)] * 10_000, [SentMessage("a" * 16_000_000, True)]),
        ([SentMessage("x", True)], [SentMessage("a" + "\u0315\u0316" * 500_000, True)]),
        ([SentMessage("x", True)], [SentMessage("\u0f73" * 500_000, True)]),
        ([SentMessage("a" + "\u0315\u0316" * 16_000, True)] * 100, [SentMessage("a", True)]),
    ],
)
def test_conversations_made_to_be_compared_slowly_take_little_time(
    stored: Sequence[SentMessage], resent: Sequence[SentMessage]
) -> None:
    started = time.process_time()
    assert kept(stored, resent) in (0, 5_000)
    assert time.process_time() - started < 3
