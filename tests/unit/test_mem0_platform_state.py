"""State that the adapter of Mem0's platform keeps between calls."""

from adapters.mem0_platform.state import Add, BoundedDict, DeletionConfirmations, PendingAdds
from domain.conversation import UserId

ADA, BOB = UserId("ada"), UserId("bob")


def test_two_absences_an_interval_apart_confirm_a_deletion() -> None:
    deletions = DeletionConfirmations(interval=5)
    assert [deletions.record_absence(ADA, now) for now in (100, 103, 105)] == [False, False, True]


def test_one_absence_never_confirms_a_deletion() -> None:
    assert not DeletionConfirmations(interval=0).record_absence(ADA, 100)


def test_absences_are_counted_per_user() -> None:
    deletions = DeletionConfirmations(interval=5)
    deletions.record_absence(ADA, 100)
    assert not deletions.record_absence(BOB, 105)


def test_a_reset_starts_the_confirmation_again() -> None:
    deletions = DeletionConfirmations(interval=5)
    deletions.record_absence(ADA, 100)
    deletions.reset(ADA)
    assert not deletions.is_pending(ADA, 105)
    assert [deletions.record_absence(ADA, now) for now in (105, 110)] == [False, True]


def test_a_confirmed_deletion_starts_again() -> None:
    deletions = DeletionConfirmations(interval=5)
    assert [deletions.record_absence(ADA, now) for now in (100, 105, 106)] == [False, True, False]


def test_a_first_absence_expires() -> None:
    deletions = DeletionConfirmations(interval=5, max_age=60)
    deletions.record_absence(ADA, 100)
    assert deletions.is_pending(ADA, 160)
    assert not deletions.is_pending(ADA, 161)
    assert not deletions.record_absence(ADA, 161)


def test_a_bounded_dict_drops_its_oldest_entry() -> None:
    entries: BoundedDict[int] = BoundedDict(max_entries=3)
    for number in range(3):
        entries[str(number)] = number
    entries["0"] = 0
    entries["one more"] = 0
    assert list(entries) == ["2", "0", "one more"]


def test_pending_adds_are_found_by_user() -> None:
    adds = PendingAdds()
    adds["a"], adds["b"] = Add(ADA, "1"), Add(BOB, "2")
    assert adds.of(ADA) == [("a", Add(ADA, "1"))]
