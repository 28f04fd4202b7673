"""The token estimate, and learning a model's tokenizer from the counts that its service reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.tokens import MAX_RATIO, MESSAGE_OVERHEAD, MIN_RATIO, TokenEstimator, estimate_tokens, weigh

texts = st.text(max_size=60)

ENGLISH = "The harbour was quiet that morning, and an old man mended his nets. " * 10
HINDI = "उस सुबह बंदरगाह शांत था, और एक बूढ़ा आदमी अपने जाल ठीक कर रहा था। " * 10


def learn(estimator: TokenEstimator, text: str, ratio: float) -> bool:
    """Report `ratio` times the estimated tokens for a prompt of this text alone."""
    return estimator.learn([text], round(estimate_tokens(text) * ratio) + MESSAGE_OVERHEAD)


@given(texts, texts)
def test_the_estimate_never_decreases_with_more_text(text: str, more: str) -> None:
    assert estimate_tokens(text) <= estimate_tokens(text + more)


@given(texts, texts)
def test_the_estimate_of_two_texts_is_that_of_both_together_up_to_rounding(one: str, other: str) -> None:
    together = estimate_tokens(one + other)

    assert together <= estimate_tokens(one) + estimate_tokens(other) <= together + 1


def test_the_estimate_of_an_empty_text_is_zero() -> None:
    assert estimate_tokens("") == 0


@given(st.characters(exclude_categories=["Cs"]))
def test_every_character_has_a_weight_of_at_most_a_token_per_byte(character: str) -> None:
    assert 0 < sum(weigh(character)) <= 100 * len(character.encode())


@given(texts)
def test_an_estimator_that_has_learned_nothing_returns_the_estimate(text: str) -> None:
    assert TokenEstimator()(text) == estimate_tokens(text)


@given(st.lists(st.tuples(texts, st.integers(0, 1_000)), max_size=8), texts)
def test_no_text_is_estimated_at_more_than_a_token_per_byte_or_beyond_the_bounds(
    reports: list[tuple[str, int]], text: str
) -> None:
    estimator = TokenEstimator()
    for prompt, counted in reports:
        estimator.learn([prompt], counted)

    assert estimator(text) <= len(text.encode())
    assert MIN_RATIO * (estimate_tokens(text) - 1) <= estimator(text) <= MAX_RATIO * estimate_tokens(text) + 1


@pytest.mark.parametrize("ratio", [0.6, 1, 1.5, 3, 5])
@pytest.mark.parametrize("text", [ENGLISH, HINDI], ids=["English", "Hindi"])
def test_three_counts_correct_the_estimate_to_within_a_tenth(text: str, ratio: float) -> None:
    estimator = TokenEstimator()
    for _ in range(3):
        assert learn(estimator, text, ratio)

    assert min(estimate_tokens(text) * ratio, len(text.encode())) == pytest.approx(estimator(text), rel=0.1)


def test_a_count_of_one_script_does_not_change_the_estimate_of_another() -> None:
    estimator = TokenEstimator()
    for _ in range(10):
        learn(estimator, ENGLISH, 1)
        learn(estimator, HINDI, 4)

    assert estimate_tokens(ENGLISH) == pytest.approx(estimator(ENGLISH), rel=0.15)
    assert estimate_tokens(HINDI) * 4 == pytest.approx(estimator(HINDI), rel=0.15)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 8, 100])
def test_an_implausible_count_teaches_nothing(ratio: float) -> None:
    estimator = TokenEstimator()

    assert not learn(estimator, ENGLISH, ratio)

    assert estimator(ENGLISH) == estimate_tokens(ENGLISH)


def test_a_short_prompt_teaches_less_than_a_long_one() -> None:
    after_short, after_long = TokenEstimator(), TokenEstimator()

    learn(after_short, "What time is it?", 2)
    learn(after_long, ENGLISH, 2)

    assert estimate_tokens(ENGLISH) < after_short(ENGLISH) < after_long(ENGLISH)
