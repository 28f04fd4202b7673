"""Fitting prompts to a model's context window, as a series of attempts."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from application.ports.llm import LLMContextTooLong
from application.ports.turn_observer import ContextWindowExceeded, ReplyLimitLowered
from application.turns.context_window import MIN_REPLY_TOKENS, Attempt, ContextWindow, PromptParts
from domain.conversation import Exchange, Usage
from domain.errors import ContextTooLong
from domain.tokens import MESSAGE_OVERHEAD, TokenEstimator, estimate_tokens
from tests.harness.script import Observed

MAX_TOKENS = 1_000
WORDS = "some words "


@dataclass
class Model:
    """Counts `ratio` times the estimated tokens, and refuses prompts that leave no room for the reply.

    A refusal names the window if `names_window`, and the size of the prompt if `names_prompt`.
    """

    window: int
    ratio: float = 1
    names_window: bool = True
    names_prompt: bool = True
    reports_usage: bool = True
    attempts: list[Attempt] = field(default_factory=list)
    """Those of the latest turn."""

    def count(self, attempt: Attempt) -> int:
        return sum(int(estimate_tokens(m.text) * self.ratio) + MESSAGE_OVERHEAD for m in attempt.messages)

    def refusal(self, attempt: Attempt) -> LLMContextTooLong | None:
        prompt = self.count(attempt)
        if prompt + (attempt.max_tokens or MAX_TOKENS) <= self.window:
            return None
        error = LLMContextTooLong()
        error.limit = self.window if self.names_window else None
        error.prompt_tokens = prompt if self.names_prompt else None
        return error

    def run(self, window: ContextWindow, parts: PromptParts) -> Attempt | None:
        """Make the attempts of one turn. Returns the accepted one, None if none was."""
        attempt: Attempt | None = window.first(parts)
        self.attempts = []
        while attempt is not None:
            self.attempts.append(attempt)
            assert len(self.attempts) < 50, "the attempts do not end"
            error = self.refusal(attempt)
            if error is None:
                window.accepted(attempt, Usage(self.count(attempt), 10) if self.reports_usage else None)
                return attempt
            attempt = window.smaller(parts, attempt, error)
        return None


def parts(turns: int, words: int = 50, message: str = "Hello") -> PromptParts:
    return PromptParts("Be brief.", [Exchange(WORDS * words, WORDS * words)] * turns, message)


prompts = st.builds(
    PromptParts,
    st.text(max_size=40),
    st.lists(st.builds(Exchange, st.text(max_size=300), st.text(min_size=1, max_size=300)), max_size=50),
    st.one_of(st.text(max_size=300), st.text(max_size=20).map(lambda text: text * 50)),
    st.lists(st.text(max_size=100), max_size=10),
)
models = st.builds(
    Model, st.integers(20, 20_000), st.floats(0.4, 6), st.booleans(), st.booleans(), reports_usage=st.booleans()
)


@given(models, st.lists(prompts, min_size=1, max_size=4), st.integers(100, 20_000))
def test_no_turn_sends_the_same_request_twice_and_each_is_smaller_than_the_one_before(
    model: Model, turns: list[PromptParts], context_tokens: int
) -> None:
    window = ContextWindow(context_tokens, MAX_TOKENS, Observed())
    for turn in turns:
        try:
            model.run(window, turn)
        except ContextTooLong:
            continue
        for larger, smaller in zip(model.attempts, model.attempts[1:], strict=False):
            if larger.messages == smaller.messages:
                assert smaller.max_tokens is not None
                assert MIN_REPLY_TOKENS <= smaller.max_tokens < (larger.max_tokens or MAX_TOKENS)
            else:
                sizes = [sum(len(m.text) for m in attempt.messages) for attempt in (smaller, larger)]
                assert sizes[0] < sizes[1]
        different = [attempt.messages for attempt in model.attempts]
        assert all(messages not in different[: different.index(messages)] for messages in different)


@given(models, st.lists(prompts, min_size=1, max_size=4))
def test_a_turn_fails_only_if_instructions_and_message_leave_no_room_for_a_reply(
    model: Model, turns: list[PromptParts]
) -> None:
    model.names_window = model.names_prompt = True
    window = ContextWindow(100_000, MAX_TOKENS, Observed())
    for turn in turns:
        accepted = model.run(window, turn)
        alone = model.count(ContextWindow(100_000, MAX_TOKENS, Observed()).first(PromptParts(*prompt_of(turn))))
        assert (accepted is not None) == (alone + MIN_REPLY_TOKENS <= model.window)


def prompt_of(turn: PromptParts) -> tuple[str, list[Exchange], str]:
    return turn.instructions, [], turn.message


def test_the_reply_limit_is_halved_once_if_the_service_does_not_say_what_is_too_long() -> None:
    fits = Model(window=600, names_window=False, names_prompt=False)
    does_not = Model(window=60, names_window=False, names_prompt=False)

    assert fits.run(ContextWindow(14_000, MAX_TOKENS, Observed()), parts(turns=0)) is not None
    assert does_not.run(ContextWindow(14_000, MAX_TOKENS, Observed()), parts(turns=0)) is None

    assert [None, 500] == [attempt.max_tokens for attempt in fits.attempts]
    assert [None, 500] == [attempt.max_tokens for attempt in does_not.attempts]


def test_what_was_sent_is_halved_not_the_budget() -> None:
    model = Model(window=2_000, names_window=False, names_prompt=False)

    model.run(ContextWindow(14_000, MAX_TOKENS, Observed()), parts(turns=20))

    first, second, third = (model.count(attempt) for attempt in model.attempts)
    assert first < 14_000 / 2
    assert first / 2 - 250 < second <= first / 2
    assert second / 2 - 250 < third <= second / 2


def test_the_last_attempt_consists_of_instructions_and_message() -> None:
    model = Model(window=30)

    assert model.run(ContextWindow(14_000, MAX_TOKENS, Observed()), parts(turns=20)) is None

    assert [m.text for m in model.attempts[-1].messages] == ["Be brief.", "Hello"]


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("reports_usage", [True, False])
@pytest.mark.parametrize("window_size", [1_024, 4_096])
def test_later_turns_start_with_what_fits(window_size: int, reports_usage: bool, names: bool) -> None:
    model = Model(window_size, names_window=names, names_prompt=names, reports_usage=reports_usage)
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    model.run(window, parts(turns=30))

    for _ in range(5):
        model.run(window, parts(turns=30))
        assert len(model.attempts) == 1


def test_an_estimate_that_is_too_low_is_made_up_for_without_reported_usage() -> None:
    model = Model(4_096, ratio=1.5, reports_usage=False)
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    for _ in range(10):
        model.run(window, parts(turns=30))

    assert len(model.attempts) == 1
    assert model.count(model.attempts[0]) > 2_000


def test_the_prompt_budget_stays_as_configured_if_the_window_is_larger() -> None:
    model = Model(window=100_000)
    window = ContextWindow(1_000, MAX_TOKENS, Observed())

    accepted = model.run(window, parts(turns=30))

    assert accepted is not None
    assert accepted.max_tokens is None
    assert 800 < model.count(accepted) <= 1_000


def test_a_quarter_of_a_small_window_is_kept_for_the_reply() -> None:
    model = Model(window=1_024)
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    for _ in range(3):
        accepted = model.run(window, parts(turns=30, words=10))

        assert accepted is not None
        assert (accepted.max_tokens or MAX_TOKENS) >= 256
        assert model.count(accepted) > 300


def test_each_event_is_observed_once() -> None:
    observer = Observed()
    window = ContextWindow(14_000, MAX_TOKENS, observer)
    for size in (3_000, 2_000, 1_000):
        Model(size).run(window, parts(turns=30))

    assert [type(event) for event in observer.events] == [ContextWindowExceeded, ReplyLimitLowered]
    exceeded, lowered = observer.events
    assert isinstance(exceeded, ContextWindowExceeded)
    assert (exceeded.window_tokens, exceeded.context_tokens) == (3_000, 14_000)
    assert isinstance(lowered, ReplyLimitLowered)
    assert lowered.max_tokens == MAX_TOKENS > lowered.lowered


def test_no_event_is_observed_if_everything_fits() -> None:
    observer = Observed()

    Model(100_000).run(ContextWindow(14_000, MAX_TOKENS, observer), parts(turns=30))

    assert observer.events == []


def test_an_implausible_limit_is_not_learned() -> None:
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    Model(100_000).run(window, parts(turns=10))
    error = LLMContextTooLong()
    error.limit = 8

    attempt = window.first(parts(turns=10))
    assert window.smaller(parts(turns=10), attempt, error) is not None

    assert window.first(parts(turns=10)) == attempt


def test_a_message_that_is_greatly_overestimated_is_admitted() -> None:
    window = ContextWindow(1_000, MAX_TOKENS, Observed())

    window.admit("", "1" * 2_500)  # about 850 tokens of three digits, estimated at 1,750

    with pytest.raises(ContextTooLong, match=r"^Instructions and message take about 2105 tokens; the limit is 1000\.$"):
        window.admit("", "1" * 3_000)


def test_a_long_message_is_admitted_although_the_service_counts_a_prompt_of_its_own() -> None:
    window = ContextWindow(8_000, MAX_TOKENS, Observed())
    attempt = window.first(parts(turns=3))
    for _ in range(3):
        counted = sum(window.estimate(message.text) for message in attempt.messages) + 1_000
        window.accepted(attempt, Usage(counted, 10))
    message = "one two three four " * 1_700
    assert window.estimate(message) > 16_000

    window.admit("Be brief.", message)


def test_older_turns_are_left_out_before_the_reply_limit_is_lowered_below_a_quarter_of_the_window() -> None:
    model = Model(window=4_096)

    model.run(ContextWindow(3_500, MAX_TOKENS, Observed()), parts(turns=30))

    refused, accepted = model.attempts
    assert model.window - MAX_TOKENS < model.count(refused) < model.window
    assert model.count(accepted) < model.count(refused)
    assert accepted.max_tokens is None


def test_the_next_attempt_is_another_prompt_even_if_the_estimate_of_a_whole_exceeds_that_of_its_parts() -> None:
    class Superadditive(TokenEstimator):
        def __call__(self, text: str) -> int:
            return len(text) ** 2 // 100

    window = ContextWindow(100_000, MAX_TOKENS, Observed())
    window.estimate = Superadditive()
    turn = PromptParts("", [], "Hello", ["likes tea"] * 10)

    first = window.first(turn)
    second = window.smaller(turn, first, LLMContextTooLong())

    assert second is not None
    assert first.messages[-1].text.count("likes tea") == 10
    assert second.messages[-1].text == "Hello"


def test_an_overestimated_message_leaves_a_quarter_of_the_window_for_the_reply() -> None:
    model = Model(1_024, ratio=0.5, reports_usage=False)
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    model.run(window, parts(turns=30))

    accepted = model.run(window, parts(turns=0, message=WORDS * 550))

    assert accepted is not None
    assert (accepted.max_tokens, len(model.attempts)) == (256, 1)


def test_replies_without_a_refusal_do_not_limit_later_prompts() -> None:
    model = Model(100_000)
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    model.run(window, parts(turns=0))

    accepted = model.run(window, parts(turns=30))

    assert accepted is not None
    assert model.count(accepted) > 4_000


@pytest.mark.parametrize("names", [True, False])
def test_a_longer_prompt_that_is_accepted_widens_the_window(names: bool) -> None:
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    Model(1_500, names_window=names, names_prompt=names).run(window, parts(turns=30))
    wider = Model(100_000)
    wider.run(window, parts(turns=0, message=WORDS * 1_500))

    accepted = wider.run(window, parts(turns=30))

    assert accepted is not None
    assert wider.count(accepted) > 2_000


@pytest.mark.parametrize("reports_usage", [True, False])
@pytest.mark.parametrize("limit", [None, 300])
def test_one_odd_refusal_does_not_limit_the_process_for_good(limit: int | None, reports_usage: bool) -> None:
    window, model = ContextWindow(4_000, MAX_TOKENS, Observed()), Model(8_000, reports_usage=reports_usage)
    odd = LLMContextTooLong()
    odd.limit = limit
    first = window.first(PromptParts("Be brief.", [], WORDS))
    second = window.smaller(PromptParts("Be brief.", [], WORDS), first, odd)
    assert second is not None
    window.accepted(second, Usage(model.count(second), 10) if reports_usage else None)
    parts = PromptParts("Be brief.", [Exchange(WORDS * 10, WORDS * 10)] * 40, WORDS)
    attempts = [model.run(window, parts) for _ in range(600)]
    last = attempts[-1]
    assert last is not None
    assert last.max_tokens is None
    assert model.count(last) > 2_000


@pytest.mark.parametrize("reports_usage", [True, False])
@pytest.mark.parametrize("names", [True, False])
def test_looking_for_a_wider_window_costs_a_refused_request_after_ever_more_turns(
    names: bool, reports_usage: bool
) -> None:
    window = ContextWindow(14_000, MAX_TOKENS, Observed())
    model = Model(4_096, names_window=names, names_prompt=names, reports_usage=reports_usage)
    parts = PromptParts("Be brief.", [Exchange(WORDS * 40, WORDS * 40)] * 50, WORDS)
    refused = []
    for turn in range(1_500):
        assert model.run(window, parts) is not None
        refused += [turn] * (len(model.attempts) - 1)
    assert len([turn for turn in refused if turn < 50]) <= 3
    assert len([turn for turn in refused if turn >= 50]) <= 8
