"""Ids, words and ranks of memories."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import MemoryNotFound
from domain.memory import (
    MAX_QUERY_CHARS,
    MAX_SEARCH_WORDS,
    content_words,
    index_text,
    only_asks_questions,
    parse_memory_id,
    rank,
)

shares = st.floats(0, 1)
ages = st.timedeltas(timedelta(0), timedelta(days=10_000))


@given(st.uuids())
def test_a_uuid_is_a_valid_memory_id(uuid: object) -> None:
    assert str(uuid) == parse_memory_id(str(uuid))


@pytest.mark.parametrize(
    "text",
    ["", "*", "%", "x", "00000000-0000-4000-8000-00000000000", "00000000-0000-4000-8000-000000000000\n",
     "00000000-0000-4000-8000-00000000000*", "ABCDEF00-0000-4000-8000-000000000000", "' OR 1=1 --", "../users"],
)  # fmt: skip
def test_any_other_text_is_not_found_as_a_memory_id(text: str) -> None:
    with pytest.raises(MemoryNotFound):
        parse_memory_id(text)


def test_words_are_case_folded_and_unique_and_exclude_function_words() -> None:
    assert ["dog", "called", "bello"] == list(content_words("What is my DOG called? Bello, my dog!"))


@given(st.text())
def test_words_are_limited_unique_and_among_those_that_are_indexed(text: str) -> None:
    found = content_words(text)

    assert len(found) == len(set(found)) <= MAX_SEARCH_WORDS
    assert set(found) <= set(index_text(text).split())


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_words_are_contained_in_the_text(text: str) -> None:
    assert all(word in text.casefold() for word in content_words(text))


def test_of_many_words_those_of_a_single_character_are_left_out_first() -> None:
    found = content_words("".join(chr(0x4E00 + n) for n in range(100, 140)))

    assert MAX_SEARCH_WORDS == len(found)
    assert {2} == {len(word) for word in found}


@given(shares, shares, ages)
def test_a_rank_is_between_0_and_1(relevance: float, importance: float, age: timedelta) -> None:
    assert 0 <= rank(relevance, importance, age) <= 1


@given(shares, shares, ages, shares)
def test_a_more_important_memory_does_not_rank_lower(
    relevance: float, importance: float, age: timedelta, more: float
) -> None:
    low, high = sorted((importance, more))

    assert rank(relevance, low, age) <= rank(relevance, high, age)


@given(shares, shares, ages, ages)
def test_a_more_recent_memory_does_not_rank_lower(
    relevance: float, importance: float, age: timedelta, other: timedelta
) -> None:
    young, old = sorted((age, other))

    assert rank(relevance, importance, old) <= rank(relevance, importance, young)


def test_relevance_outweighs_importance_and_age() -> None:
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
def test_a_message_of_questions_only_is_recognized(text: str, asks: bool) -> None:
    assert asks == only_asks_questions(text)


def test_only_the_beginning_of_a_query_is_searched_for() -> None:
    assert list(content_words("tea" + " " * (MAX_QUERY_CHARS - 6) + "cup milk")) == ["tea", "cup"]
