"""What every request passes through: identity, log line, safe headers, and the gate that closes at shutdown."""

import itertools
import re
import secrets
import sys
import time
from contextlib import suppress
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.errors import ServerShuttingDown
from entrypoints.http.errors import chat_problem, internal_error
from entrypoints.settings import SettingsError

_SAFE_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")

_PROCESS: Final = secrets.token_hex(8)
_numbers: Final = itertools.count(1)
"""A request's id needs to be its own, not a secret: a number behind what tells this process from all others."""

_ALWAYS_SERVED: Final = frozenset({"/livez", "/readyz", "/api/health", "/api/health/detailed"})


class RequestContext:
    """Gives each request an id, says how it went, and turns whatever nobody expected into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self._live(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the start and the end on; a refusal to start is a sentence for the operator, not a traceback."""

        async def send_sentence(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(refusal := sys.exc_info()[1], SettingsError):
                message["message"] = str(refusal)
            await send(message)

        with suppress(SettingsError):
            await self._app(scope, receive, send_sentence)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _SAFE_ID.fullmatch(asked) else f"{_PROCESS}{next(_numbers):016x}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:
                self._log.error("request failed", exc_info=error)
                if status:
                    raise  # the server cuts the connection: a truncated answer must not look whole
                await internal_error(request_id)(scope, receive, send_with_headers)
            finally:
                # The template of the path, since the path itself holds users' ids.
                route = scope.get("route")
                self._log.info(
                    "request",
                    method=scope["method"],
                    path=getattr(route, "path", None),
                    status=status,
                    seconds=round(time.perf_counter() - started, 4),
                )


class ClosingGate:
    """Refuses what comes after the service was told to stop; health is always served."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["app"].state.drain.begun and scope["path"] not in _ALWAYS_SERVED:
            refusal: Response = chat_problem(scope["state"]["request_id"], ServerShuttingDown())
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
