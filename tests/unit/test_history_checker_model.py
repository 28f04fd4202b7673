"""The history checker accepts every history of a simulated correct service, and finds each planted defect."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.history_checker import check
from tests.harness.history_defects import defects, resurrections
from tests.harness.history_violations import Violation
from tests.harness.observations import Observations
from tests.harness.simulated_history import MAX_CONTEXT, SimulatedHistory, reply_of

STEPS = st.integers(min_value=1, max_value=150)
CHANCES = st.randoms(use_true_random=False)


def violations(observed: Observations) -> list[Violation]:
    return check(observed, reply_of=reply_of, grace=1000, max_context=MAX_CONTEXT)


@settings(max_examples=150)
@given(CHANCES, STEPS)
def test_a_correct_history_has_no_violations(chance: Random, steps: int) -> None:
    assert violations(SimulatedHistory(chance).run(steps)) == []


@pytest.mark.parametrize("seed", range(10))
def test_every_defect_is_found(seed: int) -> None:
    planted, missed = Counter[str](), list[tuple[str, list[Violation]]]()
    for rule, observed in defects(SimulatedHistory(Random(seed), deletes=False).run(150)):
        planted[rule] += 1
        found = violations(observed)
        if rule not in {violation.rule for violation in found}:
            missed.append((rule, found))
    assert missed == []
    assert {"P1", "P2", "P3", "P4", "P6", "P7"} <= planted.keys()


def test_every_deleted_turn_that_returns_is_found() -> None:
    returned = [again for seed in range(10) for again in resurrections(SimulatedHistory(Random(seed)).run(200))]
    assert len(returned) > 10
    for observed in returned:
        assert "P8" in {violation.rule for violation in violations(observed)}
