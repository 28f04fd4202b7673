"""The laws of memories: ids, words, ranks."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import MemoryNotFound
from domain.memory import MAX_SEARCH_WORDS, content_words, only_asks_questions, parse_memory_id, rank

shares = st.floats(0, 1)
ages = st.timedeltas(timedelta(0), timedelta(days=10_000))


@given(st.uuids())
def test_a_uuid_is_an_id(uuid: object) -> None:
    assert str(uuid) == parse_memory_id(str(uuid))


@pytest.mark.parametrize(
    "text",
    ["", "*", "%", "x", "00000000-0000-4000-8000-00000000000", "00000000-0000-4000-8000-000000000000\n",
     "00000000-0000-4000-8000-00000000000*", "ABCDEF00-0000-4000-8000-000000000000", "' OR 1=1 --", "../users"],
)  # fmt: skip
def test_nothing_else_is_an_id(text: str) -> None:
    with pytest.raises(MemoryNotFound):
        parse_memory_id(text)


def test_words_are_what_a_text_is_about() -> None:
    assert ["dog", "called", "bello"] == list(content_words("What is my DOG called? Bello, my dog!"))


@given(st.text())
def test_words_are_few_different_and_found_in_the_text(text: str) -> None:
    found = content_words(text)

    assert len(found) == len(set(found)) <= MAX_SEARCH_WORDS
    assert all(word in text.casefold() for word in found)


@given(shares, shares, ages)
def test_a_rank_lies_between_nothing_and_all(relevance: float, importance: float, age: timedelta) -> None:
    assert 0 <= rank(relevance, importance, age) <= 1


@given(shares, shares, ages, shares)
def test_what_matters_more_ranks_no_lower(relevance: float, importance: float, age: timedelta, more: float) -> None:
    low, high = sorted((importance, more))

    assert rank(relevance, low, age) <= rank(relevance, high, age)


@given(shares, shares, ages, ages)
def test_what_is_more_recent_ranks_no_lower(
    relevance: float, importance: float, age: timedelta, other: timedelta
) -> None:
    young, old = sorted((age, other))

    assert rank(relevance, importance, old) <= rank(relevance, importance, young)


def test_what_fits_best_comes_first_whatever_else_speaks_for_the_other() -> None:
    assert rank(1.0, 0.0, timedelta(days=10_000)) > rank(0.6, 1.0, timedelta(0))


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What is my dog called?", True),
        ("Who? Where? ", True),
        ("你好吗？", True),
        ("My dog is called Bello.", False),
        ("My dog is called Bello. Cute, isn't he?", False),
        ("Did you know? My dog is called Bello", False),
        ("I like tea", False),
        ("", False),
    ],
)
def test_a_message_that_only_asks_tells_nothing(text: str, asks: bool) -> None:
    assert asks == only_asks_questions(text)
