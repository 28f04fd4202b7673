"""The FastAPI application."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import lru_cache, partial
from typing import Final

import anyio
from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from entrypoints.container import Container
from entrypoints.drain import Drain
from entrypoints.http.auth import Authentication, NoAuthentication
from entrypoints.http.errors import add_error_handlers
from entrypoints.http.idempotency_key import REPLAYED
from entrypoints.http.logged_path import words_of
from entrypoints.http.middleware import Gate, RequestContext, UnexpectedErrors
from entrypoints.http.native import chat, history, memories, turns
from entrypoints.http.openai import routes as openai
from entrypoints.http.openai.caller import CONVERSATION
from entrypoints.http.openai.errors import SHOULD_RETRY, openai_error
from entrypoints.http.openapi import document
from entrypoints.http.operations import health
from entrypoints.http.operations.docs import docs_router
from entrypoints.http.page.routes import page_router
from entrypoints.http.policies import open_paths, require_policies
from entrypoints.http.surfaces import ErrorsUnderPrefix, SplitByPrefix
from entrypoints.http.unknown_fields import HEADER
from entrypoints.lifespan import Lifespan
from entrypoints.observability import configure_logging
from entrypoints.settings import Settings
from entrypoints.version import VERSION

_CORS_HEADERS: Final = (
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-API-Key",
    "X-Request-ID",
    "X-Requested-With",
)
"""Headers that pages of other origins may send: those of the API, and two that libraries add by themselves."""

_CORS_EXPOSED: Final = (
    REPLAYED,
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    HEADER,
    "X-Request-ID",
    "X-Turn-ID",
)
"""Headers of responses that such pages may read."""


def create_app(settings: Settings, container: Container | None = None, *, chain_signals: bool = False) -> FastAPI:
    """Create the service as an ASGI application.

    Pass a `container` to replace parts of the service. With `chain_signals` the application drains running turns on
    SIGTERM, SIGINT and SIGHUP itself, for servers that do not know about turns, e.g. plain uvicorn.
    """
    configure_logging(settings)
    container = container or Container(settings=settings)
    app = FastAPI(
        title=settings.app_name,
        version=VERSION,
        summary="Chat with a model: streamed replies, durable history, long-term memory.",
        lifespan=_lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.state.settings = settings
    app.state.container = container
    app.state.lifespan = Lifespan(container)
    app.state.drain = Drain(container.turn_runner(), container.shutdown())
    app.state.chain_signals = chain_signals
    app.router.routes.extend(_routes(settings.app_name, docs=settings.docs, chat_page=settings.chat_page))
    add_error_handlers(app)
    _add_middleware(app, settings, container)
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _add_middleware(app: FastAPI, settings: Settings, container: Container) -> None:
    """Put the layers around the routes, from the inside out: the last one is the first to see a request."""
    if settings.auth == "none":
        app.add_middleware(NoAuthentication, local_only=not settings.chat_dangerously_allow_unauthenticated)
    else:
        app.add_middleware(
            Authentication,
            authenticate=container.authenticate(),
            open_paths=open_paths(app),
            trusted_proxies=settings.trusted_proxies,
        )
    app.add_middleware(Gate)
    app.add_middleware(UnexpectedErrors)
    if settings.cors_origins:  # around everything that creates responses, so that browsers may read all of them
        _add_cors(app, settings.cors_origins)
    app.add_middleware(ErrorsUnderPrefix, prefix=openai.PREFIX, error_format=openai_error)
    app.add_middleware(RequestContext, words=words_of(app), root_path=settings.root_path)


def _add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    app.add_middleware(
        SplitByPrefix,
        prefix=openai.PREFIX,
        with_prefix=partial(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # libraries add headers of their own
            expose_headers=[*_CORS_EXPOSED, CONVERSATION, SHOULD_RETRY],
        ),
        others=partial(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=_CORS_HEADERS,
            expose_headers=_CORS_EXPOSED,
        ),
    )


@lru_cache(maxsize=8)
def _routes(app_name: str, *, docs: bool, chat_page: bool) -> Sequence[BaseRoute]:
    """Return the routes of an application. They know no application, so that all of a process can share them.

    FastAPI analyses the endpoint of every included route, which takes about ten times as long as all the rest.
    """
    router = APIRouter(generate_unique_id_function=lambda route: route.name)
    for module in (chat, turns, history, memories, health, openai):
        router.include_router(module.router)
    if docs:
        router.include_router(docs_router(app_name))
    if chat_page:
        router.include_router(page_router(app_name))
    return router.routes


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    require_policies(app)
    app.state.started_at = anyio.current_time()
    async with app.state.lifespan:
        with app.state.drain.on_signals() if app.state.chain_signals else nullcontext():
            yield
