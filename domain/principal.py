"""Principals: who sends a request, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from domain.conversation import UserId
from domain.errors import Forbidden

NOBODY: Final = "openai-api"
"""Id of the user to whom requests to `/v1` belong if they name no user, e.g. `openai-api`, or `acme-openai-api` with an
API key whose prefix is `acme-`. Tokens whose subject ends with it are rejected, so that no person has its id."""


class Role(StrEnum):
    ANONYMOUS = "anonymous"
    """Everyone, if there is no authentication. May do everything."""
    USER = "user"
    """A person with a token, who may reach their own data."""
    SERVICE = "service"
    """Another service with an API key, which may act for users, and see the detailed health check."""
    ADMIN = "admin"
    """An operator with an API key. May do everything."""


class Action(StrEnum):
    USER_DATA = "user_data"
    """Reading, changing or deleting anything that belongs to a user: turns, conversations, memories."""
    DETAILED_HEALTH = "detailed_health"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request.

    `id` is the user's id, or that of an API key. A service may act for the users whose id begins with `prefix`.
    """

    role: Role
    id: str
    prefix: str = ""

    @property
    def user_id(self) -> UserId | None:
        """The only user whose data the principal may reach; None if that is not limited to one."""
        return UserId(self.id) if self.role is Role.USER else None

    @property
    def name(self) -> str:
        """A name that is unique among all principals, e.g. `user:ann` or `service:5f0c…`."""
        return self.id if self.role is Role.ANONYMOUS else f"{self.role}:{self.id}"

    def acts_for(self, owner: UserId | None) -> bool:
        """Return whether the principal may access the data of `owner`. None stands for an id that no user can have."""
        match self.role:
            case Role.ANONYMOUS | Role.ADMIN:
                return True
            case Role.SERVICE:
                return not self.prefix or (owner is not None and owner.startswith(self.prefix))
            case Role.USER:
                return owner == self.id


ANONYMOUS: Final = Principal(Role.ANONYMOUS, "anonymous")


def authorize(principal: Principal, action: Action, owner: UserId | None = None) -> None:
    """Check that the principal may do this. For `USER_DATA`, `owner` is the user whose data it is.

    Raises:
        Forbidden: It may not, whether or not that user exists.
    """
    match action:
        case Action.USER_DATA:
            allowed = principal.acts_for(owner)
        case Action.DETAILED_HEALTH:
            allowed = principal.role is not Role.USER
    if not allowed:
        raise Forbidden
