"""The retry policy: delays and giving up."""

from datetime import timedelta

import pytest

from domain.retry import RetryPolicy

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
POLICY = RetryPolicy(first_delay=SECOND, max_delay=60 * SECOND, give_up_after=DAY, min_attempts=5)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10_000, 60)])
def test_delays_double_up_to_the_longest(failures: int, seconds: int) -> None:
    assert seconds * SECOND == POLICY.delay(failures)


@pytest.mark.parametrize(("retry_after", "seconds"), [(None, 2), (1, 2), (30, 30), (61, 60), (float("inf"), 60)])
def test_a_requested_delay_is_honoured_between_the_backoff_and_the_longest_delay(
    retry_after: float | None, seconds: int
) -> None:
    assert seconds * SECOND == POLICY.delay(2, retry_after)


@pytest.mark.parametrize(
    ("failures", "age", "expected"),
    [(5, DAY + SECOND, True), (5, DAY, False), (4, 100 * DAY, False), (100, DAY, False)],
)
def test_a_job_is_given_up_when_it_is_old_and_was_attempted_often(
    failures: int, age: timedelta, expected: bool
) -> None:
    assert expected == POLICY.gives_up(failures, age)


def test_a_policy_without_an_age_limit_never_gives_up() -> None:
    assert not RetryPolicy(SECOND, SECOND).gives_up(10_000, 1000 * DAY)
