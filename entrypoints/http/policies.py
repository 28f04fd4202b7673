"""Policies: who may use a route. Each endpoint declares one; without it the service does not start.

@router.get("/history/{user_id}")
@requires(Policy.OWNER_IN_PATH)
async def get_history(user_id: UserIdField, …) -> HistoryView: …
"""

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.types import Scope

from domain.conversation import UserId
from domain.errors import Forbidden, Unauthenticated, Unusable
from domain.principal import Action, Principal, authorize

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Policy(Enum):
    PUBLIC = auto()
    """No credential is needed."""
    OPERATORS = auto()
    """For principals that may see the detailed health check."""
    OWNER_IN_PATH = auto()
    """For principals that may access the data of the user whom the path names as `user_id`."""
    OWNER_IN_BODY = auto()
    """For principals that may access the data of the user whom the body names as `user_id`, their own by default."""
    OWNER_IN_REQUEST = auto()
    """Any credential; the endpoint finds the user in the request, and calls `authorize`. Also for routes whose response
    is about no user."""
    OWNER_OF_TURN = auto()
    """Any credential; the use case takes the principal, and does not find the turns of other users."""
    SELF = auto()
    """Any credential; the response is only about the principal."""


def requires(policy: Policy) -> Callable[[Endpoint], Endpoint]:
    """Declare the policy of an endpoint."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["policy"] = policy
        return endpoint

    return declare


def policy_of(endpoint: object) -> Policy | None:
    return getattr(endpoint, "policy", None)


def principal_of(scope: Scope) -> Principal:
    """Return the principal of a request.

    Raises:
        Unauthenticated: No middleware has set one.
    """
    principal: Principal | None = scope["state"].get("principal")
    if principal is None:
        raise Unauthenticated
    return principal


def check_request(policy: Policy | None, scope: Scope) -> None:
    """Return if the policy permits a request, as far as this is known before its body is read.

    Raises:
        Unauthenticated, Forbidden: It does not, or there is no policy.
    """
    match policy:
        case Policy.PUBLIC:
            pass
        case Policy.OPERATORS:
            authorize(principal_of(scope), Action.DETAILED_HEALTH)
        case Policy.OWNER_IN_PATH:
            authorize(principal_of(scope), Action.USER_DATA, _user_id(scope["path_params"]["user_id"]))
        case Policy.OWNER_IN_BODY | Policy.OWNER_IN_REQUEST | Policy.OWNER_OF_TURN | Policy.SELF:
            principal_of(scope)
        case None:
            raise Forbidden


def check_body(policy: Policy | None, scope: Scope, body: Any) -> None:
    """Return if the principal may reach the data of the user in this JSON, whatever the policy.

    With OWNER_IN_BODY, the principal's own id is filled in if it has one and the body has none.

    Raises:
        Forbidden: It may not.
    """
    if policy is Policy.PUBLIC or not isinstance(body, dict):
        return
    principal = principal_of(scope)
    if "user_id" not in body:
        if policy is Policy.OWNER_IN_BODY and principal.user_id is not None:
            body["user_id"] = str(principal.user_id)
    elif isinstance(body["user_id"], str):  # anything else is rejected as invalid, or ignored
        authorize(principal, Action.USER_DATA, _user_id(body["user_id"]))


def _user_id(value: str) -> UserId | None:
    try:
        return UserId(value)
    except ValueError:  # rejected as invalid if the principal may reach all users' data
        return None


def open_paths(app: FastAPI) -> frozenset[str]:
    """Return the paths that need no credential."""
    public = {str(route.path) for route in _routes(app) if _enforced_policy(route) is Policy.PUBLIC}
    return frozenset(public | {app.openapi_url} if app.openapi_url else public)


def require_policies(app: FastAPI) -> None:
    """Check that every route enforces a policy.

    Raises:
        Unusable: One does not. The message names it.
    """
    for route in _routes(app):
        if _enforced_policy(route) is None:
            raise Unusable(f"The route {route.path} has no policy: use SecuredRoute, and declare one with requires().")


def _enforced_policy(route: RouteContext) -> Policy | None:
    """Return the policy of a `SecuredRoute`; other routes enforce none."""
    return getattr(route.original_route, "policy", None)


def _routes(app: FastAPI) -> Iterator[RouteContext]:
    """Yield every route but that of the OpenAPI document, which FastAPI adds itself."""
    return (route for route in iter_route_contexts(app.routes) if route.path != app.openapi_url)
