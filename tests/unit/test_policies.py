"""Every route declares who may use it, or the service does not start."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from domain.errors import Forbidden, Unauthenticated, Unusable
from domain.principal import ANONYMOUS, Principal
from entrypoints.http.app import create_app
from entrypoints.http.page.files import page_files
from entrypoints.http.policies import Policy, check_body, check_request, open_paths, require_policies, requires
from entrypoints.http.routing import SecuredRoute
from entrypoints.settings import Settings
from tests.harness.credentials import ADMIN, ANN, SERVICE, TENANT

PUBLIC = {"/livez", "/readyz", "/api/health"}
DOCUMENTATION = {
    "/docs",
    "/docs/start.js",
    "/docs/swagger-ui.css",
    "/docs/swagger-ui-bundle.js",
    "/openapi.json",
}


def app(**settings: Any) -> FastAPI:
    return create_app(Settings(_env_file=None, history_backend="in_memory", memory_backend="in_memory", **settings))


async def endpoint() -> None: ...


@requires(Policy.PUBLIC)
async def declared() -> None: ...


async def on_connect(socket: WebSocket) -> None: ...


async def other_app(scope: Scope, receive: Receive, send: Send) -> None: ...


def add_route(app: FastAPI) -> None:
    app.add_api_route("/more", endpoint)


def add_route_of_another_class(app: FastAPI) -> None:
    app.add_api_route("/more", declared)


def add_route_without_a_policy(app: FastAPI) -> None:
    app.router.route_class = SecuredRoute
    app.add_api_route("/more", endpoint)


def include_router(app: FastAPI) -> None:
    inner = APIRouter(route_class=SecuredRoute)
    inner.add_api_route("/more", endpoint)
    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    app.include_router(outer)


def add_websocket(app: FastAPI) -> None:
    app.add_api_websocket_route("/more", on_connect)


def add_starlette_route(app: FastAPI) -> None:
    app.router.add_route("/more", lambda request: Response())


def mount(app: FastAPI) -> None:
    app.mount("/more", other_app)


def test_every_route_of_the_service_has_a_policy() -> None:
    require_policies(app())


@pytest.mark.parametrize(
    "add",
    [
        add_route,
        add_route_of_another_class,
        add_route_without_a_policy,
        include_router,
        add_websocket,
        add_starlette_route,
        mount,
    ],
)
async def test_the_service_does_not_start_with_a_route_that_enforces_no_policy(add: Callable[[FastAPI], None]) -> None:
    extended = app(log_pseudonym_key="without-a-key-a-file-would-be-made")
    add(extended)

    with pytest.raises(Unusable, match="/more has no policy"):
        async with extended.router.lifespan_context(extended):
            pass


async def test_the_service_starts_with_a_further_route_that_has_a_policy() -> None:
    extended = app()
    router = APIRouter(route_class=SecuredRoute)
    router.add_api_route("/more", declared)
    extended.include_router(router)

    require_policies(extended)


def test_exactly_these_paths_are_open() -> None:
    assert open_paths(app(chat_page=False)) == PUBLIC | DOCUMENTATION


def test_the_chat_page_opens_its_files_and_nothing_else() -> None:
    files = {"/" if file.path == "index.html" else f"/page/{file.path}" for file in page_files("Smart Chatbot")}

    assert open_paths(app()) == PUBLIC | DOCUMENTATION | files


def test_without_documentation_its_paths_do_not_exist() -> None:
    assert open_paths(app(docs=False, chat_page=False)) == PUBLIC


def scope_of(principal: Principal | None, **path_params: str) -> Scope:
    return {"type": "http", "state": {"principal": principal} if principal else {}, "path_params": path_params}


@pytest.mark.parametrize("policy", [*(policy for policy in Policy if policy is not Policy.PUBLIC), None])
def test_nothing_but_a_public_route_is_served_without_a_principal(policy: Policy | None) -> None:
    with pytest.raises((Unauthenticated, Forbidden)):
        check_request(policy, scope_of(None, user_id="ann"))


@pytest.mark.parametrize("principal", [ADMIN, ANONYMOUS])
def test_a_route_without_a_policy_serves_nobody(principal: Principal) -> None:
    with pytest.raises(Forbidden):
        check_request(None, scope_of(principal))


@pytest.mark.parametrize(
    ("principal", "user_id"),
    [(ANN, "ben"), (ANN, "Ann"), (ANN, "ann\n"), (ANN, "*"), (ANN, ""), (TENANT, "ben"), (TENANT, "a*"), (TENANT, "")],
)
def test_another_users_data_is_forbidden_in_path_and_body(principal: Principal, user_id: str) -> None:
    with pytest.raises(Forbidden):
        check_request(Policy.OWNER_IN_PATH, scope_of(principal, user_id=user_id))
    for policy in set(Policy) - {Policy.PUBLIC}:
        with pytest.raises(Forbidden):
            check_body(policy, scope_of(principal), {"user_id": user_id})


@pytest.mark.parametrize("principal", [ANN, TENANT, SERVICE, ADMIN, ANONYMOUS])
def test_ones_own_data_is_not(principal: Principal) -> None:
    check_request(Policy.OWNER_IN_PATH, scope_of(principal, user_id="ann"))
    check_body(Policy.OWNER_IN_BODY, scope_of(principal), {"user_id": "ann"})


def test_only_a_users_own_id_is_filled_in() -> None:
    bodies: list[dict[str, Any]] = [{}, {}, {}, {"user_id": None}]
    for principal, body in zip((ANN, SERVICE, ANONYMOUS, ANN), bodies, strict=True):
        check_body(Policy.OWNER_IN_BODY, scope_of(principal), body)

    assert bodies == [{"user_id": "ann"}, {}, {}, {"user_id": None}]


@pytest.mark.parametrize("body", [None, [], "user_id", 1, [{"user_id": "ben"}], {"user_id": ["ben"]}, {"user_id": 1}])
def test_what_names_no_user_is_left_to_validation(body: Any) -> None:
    check_body(Policy.OWNER_IN_BODY, scope_of(ANN), body)
