"""DirectRoute: calls its endpoint directly, and leaves everything it does not support to FastAPI."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import httpx2
import pytest
from dependency_injector import providers
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from entrypoints.container import Container
from entrypoints.drain import Drain
from entrypoints.http.auth import NoAuthentication
from entrypoints.http.dependencies import SendMessageDep
from entrypoints.http.errors import add_error_handlers
from entrypoints.http.middleware import RequestContext
from entrypoints.http.native import chat
from entrypoints.http.policies import Policy, requires
from entrypoints.http.routing import DirectRoute
from entrypoints.settings import Settings
from tests.harness.fakes import ScriptedLLM

CHAT = ("/api/chat", "/api/chat/simple")
HELLO = {"user_id": "user123", "message": "Hello"}


class Body(BaseModel):
    text: str


async def method(request: Request) -> str:
    return request.method


async def method_and_page(request: Request, page: int) -> str:
    return request.method * page


def synchronous(request: Request) -> str:
    return request.method


async def generator(request: Request) -> AsyncIterator[str]:
    yield request.method


@requires(Policy.PUBLIC)
async def echo(body: Body, request: Request, need: Annotated[str, Depends(method)]) -> Response:
    handled_by = "FastAPI" if "fastapi_inner_astack" in request.scope else "DirectRoute"
    return Response(f"{need} {body.text} {handled_by}")


async def takes_a_query_parameter(body: Body, request: Request, page: int) -> Response:
    return Response()


async def takes_the_response(body: Body, request: Request, response: Response) -> Response:
    return Response()


async def depends_on_a_query_parameter(
    body: Body, request: Request, need: Annotated[str, Depends(method_and_page)]
) -> Response:
    return Response()


async def depends_on_a_plain_function(
    body: Body, request: Request, need: Annotated[str, Depends(synchronous)]
) -> Response:
    return Response()


async def depends_on_a_generator(body: Body, request: Request, need: Annotated[str, Depends(generator)]) -> Response:
    return Response()


async def deny() -> None:
    raise HTTPException(403, "Not you.")


async def challenge() -> None:
    raise HTTPException(401, "Log in first.", headers={"WWW-Authenticate": "Bearer"})


async def allow(request: Request) -> None:
    request.state.allowed = True


def add_direct_route(router: APIRouter, endpoint: Any) -> None:
    router.add_api_route("/echo", endpoint, methods=["POST"], response_class=Response, route_class_override=DirectRoute)


def app_with(
    router: APIRouter,
    *,
    app_level: Sequence[Any] = (),
    parent_level: Sequence[Any] = (),
    include_level: Sequence[Any] = (),
    send_message: Any = None,
    **arguments: Any,
) -> FastAPI:
    """Create an app that includes `router`, within a parent router, with these dependencies."""
    settings = Settings(_env_file=None, history_backend="in_memory", memory_backend="in_memory")
    container = Container(settings=settings)
    container.llm.override(providers.Object(ScriptedLLM()))
    container.send_message.override(providers.Object(send_message))
    app = FastAPI(dependencies=app_level, **arguments)
    app.state.settings = settings
    app.state.container = container
    app.state.drain = Drain(container.turn_runner(), container.shutdown())
    parent = APIRouter(dependencies=parent_level)
    parent.include_router(router)
    app.include_router(parent, dependencies=include_level)
    add_error_handlers(app)
    app.add_middleware(NoAuthentication, local_only=False)
    app.add_middleware(RequestContext)
    return app


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        yield client


async def post_echo(app: FastAPI) -> httpx2.Response:
    async with client_of(app) as client:
        return await client.post("/echo", json={"text": "Hello"})


@pytest.fixture
def router() -> APIRouter:
    router = APIRouter()
    add_direct_route(router, echo)
    return router


async def test_the_endpoint_is_called_directly(router: APIRouter) -> None:
    assert (await post_echo(app_with(router))).text == "POST Hello DirectRoute"


@pytest.mark.parametrize("level", ["app_level", "parent_level", "include_level"])
async def test_fastapi_handles_the_request_if_it_has_further_dependencies(router: APIRouter, level: str) -> None:
    app = app_with(router, **{level: [Depends(allow)]})

    assert (await post_echo(app)).text == "POST Hello FastAPI"


async def test_fastapi_handles_the_request_if_the_router_has_dependencies() -> None:
    router = APIRouter(dependencies=[Depends(allow)])
    add_direct_route(router, echo)

    assert (await post_echo(app_with(router))).text == "POST Hello FastAPI"


async def test_fastapi_handles_the_request_if_a_dependency_is_overridden(router: APIRouter) -> None:
    async def overridden() -> str:
        return "overridden"

    app = app_with(router)
    app.dependency_overrides[method] = overridden

    assert (await post_echo(app)).text == "overridden Hello FastAPI"


async def test_fastapi_handles_the_request_if_it_limits_the_body(router: APIRouter) -> None:
    assert (await post_echo(app_with(router, max_body_size=1000))).text == "POST Hello FastAPI"


async def test_fastapi_handles_the_request_if_the_route_belongs_to_the_app_itself() -> None:
    app = app_with(APIRouter())
    add_direct_route(app.router, echo)

    assert (await post_echo(app)).text == "POST Hello FastAPI"


@pytest.mark.parametrize("path", CHAT)
@pytest.mark.parametrize("level", ["app_level", "parent_level", "include_level"])
async def test_a_chat_is_rejected_by_a_dependency_before_its_turn_begins(level: str, path: str) -> None:
    begun: list[Any] = []
    for dependency in (deny, challenge):
        app = app_with(chat.router, send_message=begun.append, **{level: [Depends(dependency)]})
        async with client_of(app) as client:
            response = await client.post(path, json=HELLO)
        expected = (403, "forbidden", "Not you.") if dependency is deny else (401, "unauthenticated", "Log in first.")
        assert (response.status_code, response.json()["code"], response.json()["detail"]) == expected
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers.get("WWW-Authenticate") == (None if dependency is deny else "Bearer")

    assert begun == []


async def test_a_chat_is_rejected_by_an_overriding_dependency_before_its_turn_begins() -> None:
    begun: list[Any] = []
    app = app_with(chat.router, send_message=begun.append)
    [marker] = cast(Any, SendMessageDep).__metadata__
    app.dependency_overrides[marker.dependency] = deny
    async with client_of(app) as client:
        responses = [await client.post(path, json=HELLO) for path in CHAT]

    assert [response.status_code for response in responses] == [403, 403]
    assert begun == []


def test_an_endpoint_with_supported_parameters_is_accepted() -> None:
    add_direct_route(router := APIRouter(), echo)

    assert [type(route) for route in router.routes] == [DirectRoute]


@pytest.mark.parametrize(
    "endpoint",
    [
        takes_a_query_parameter,
        takes_the_response,
        depends_on_a_query_parameter,
        depends_on_a_plain_function,
        depends_on_a_generator,
    ],
)
def test_an_endpoint_with_an_unsupported_parameter_is_rejected_on_startup(endpoint: Any) -> None:
    with pytest.raises(AssertionError):
        add_direct_route(APIRouter(), endpoint)
