"""Who may do what."""

import pytest

from domain.conversation import UserId
from domain.errors import Forbidden
from domain.principal import ANONYMOUS, Action, Principal, Role, authorize
from tests.harness.credentials import ADMIN, ANN, SERVICE, TENANT

USERS = ("ann", "ben", "an", "anna", "Ann", "annb", "a", "ba")


def may(principal: Principal, action: Action, owner: UserId | None = None) -> bool:
    try:
        authorize(principal, action, owner)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        (ANONYMOUS, USERS),
        (ADMIN, USERS),
        (SERVICE, USERS),
        (TENANT, ("ann", "an", "anna", "annb", "a")),
        (ANN, ("ann",)),
    ],
)
def test_a_principal_may_reach_the_data_of_these_users(principal: Principal, expected: tuple[str, ...]) -> None:
    assert tuple(user for user in USERS if may(principal, Action.USER_DATA, UserId(user))) == expected


def test_an_id_that_no_user_can_have_is_within_the_reach_of_those_who_may_reach_all() -> None:
    principals = (ANONYMOUS, ADMIN, SERVICE, TENANT, ANN)

    assert [may(principal, Action.USER_DATA, None) for principal in principals] == [True, True, True, False, False]


def test_only_users_may_not_see_the_detailed_health_check() -> None:
    principals = (ANONYMOUS, ADMIN, SERVICE, TENANT, ANN)

    assert [may(principal, Action.DETAILED_HEALTH) for principal in principals] == [True, True, True, True, False]


def test_only_a_user_is_limited_to_one_owner() -> None:
    assert [one.user_id for one in (ANONYMOUS, ADMIN, SERVICE, TENANT, ANN)] == [None, None, None, None, "ann"]


def test_no_two_principals_have_the_same_name() -> None:
    principals = [
        Principal(role, id) for role in Role if role is not Role.ANONYMOUS for id in ("anonymous", "x", "user:x")
    ]

    assert len({one.name for one in (ANONYMOUS, *principals)}) == len(principals) + 1
