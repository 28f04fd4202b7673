"""What is remembered between calls because the platform is slow, and for how long."""

from adapters.mem0_platform.state import LOOK_LIFE, MAX_ENTRIES, Add, AddsUnderWay, Emptiness, Latest
from domain.conversation import UserId

ADA, BOB = UserId("ada"), UserId("bob")


def test_two_looks_an_interval_apart_are_certain() -> None:
    emptiness = Emptiness(5)
    assert [emptiness.seen(ADA, now) for now in (100, 103, 105)] == [False, False, True]


def test_one_look_is_never_certain() -> None:
    assert not Emptiness(0).seen(ADA, 100)


def test_users_do_not_count_for_each_other() -> None:
    emptiness = Emptiness(5)
    emptiness.seen(ADA, 100)
    assert not emptiness.seen(BOB, 105)


def test_what_is_there_again_starts_it_anew() -> None:
    emptiness = Emptiness(5)
    emptiness.seen(ADA, 100)
    emptiness.broken(ADA)
    assert not emptiness.begun(ADA, 105)
    assert [emptiness.seen(ADA, now) for now in (105, 110)] == [False, True]


def test_after_certainty_it_starts_anew() -> None:
    emptiness = Emptiness(5)
    assert [emptiness.seen(ADA, now) for now in (100, 105, 106)] == [False, True, False]


def test_a_look_that_is_long_ago_counts_for_nothing() -> None:
    emptiness = Emptiness(5)
    emptiness.seen(ADA, 100)
    assert emptiness.begun(ADA, 100 + LOOK_LIFE)
    assert not emptiness.begun(ADA, 101 + LOOK_LIFE)
    assert not emptiness.seen(ADA, 101 + LOOK_LIFE)


def test_only_the_latest_are_kept() -> None:
    latest: Latest[int] = Latest()
    for number in range(MAX_ENTRIES):
        latest[str(number)] = number
    latest["0"] = 0
    latest["one more"] = 0
    assert len(latest) == MAX_ENTRIES
    assert ("0" in latest, "1" in latest) == (True, False)


def test_adds_are_found_by_their_user() -> None:
    adds = AddsUnderWay()
    adds["a"], adds["b"] = Add(ADA, "1"), Add(BOB, "2")
    assert adds.of(ADA) == [("a", Add(ADA, "1"))]
