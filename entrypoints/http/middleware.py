"""Middleware of all requests: id, log line, security headers, unexpected errors, the gate of start and shutdown."""

import itertools
import logging
import re
import secrets
import sys
from asyncio import CancelledError
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from application.ports.history import HistoryUnavailable
from domain.errors import ChatError, InternalError, ServerShuttingDown, Unusable
from entrypoints.http.errors import chat_problem
from entrypoints.http.logged_path import logged_path
from entrypoints.http.unknown_fields import HEADER

_SAFE_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")

_PROCESS: Final = secrets.token_hex(8)
_numbers: Final = itertools.count(1)
"""Generated request ids: a random prefix per process and a counter. They must be unique, not secret."""

_PROBES: Final = frozenset({"/livez", "/readyz", "/api/health"})
"""Requested every second or so by orchestrators and proxies, so that they are logged at debug level only."""

_PAGE_FILES: Final = "/page/"
"""Prefix of the files of the chat page: some forty for each time that it is opened."""

_ALWAYS_SERVED: Final = _PROBES | {"/api/health/detailed"}


class RequestContext:
    """Assigns each request an id, removes the path of a proxy from its own, and logs its outcome.

    `words` are those that the log may show of a path, see `logged_path`. `root_path` is the path under which a proxy
    serves the API; if it is empty, the server's own `root_path` is used.
    """

    def __init__(self, app: ASGIApp, *, words: Collection[str] = (), root_path: str = "") -> None:
        self._app = app
        self._words = words
        self._root_path = root_path
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._handle_request(scope, receive, send)
        else:
            await self._handle_lifespan(scope, receive, send)

    async def _handle_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """If startup fails with Unusable, report its message to the server instead of a traceback."""

        async def send_sentence(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(error := sys.exc_info()[1], Unusable):
                message["message"] = str(error)
            await send(message)

        with suppress(Unusable):
            await self._app(scope, receive, send_sentence)

    async def _handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root_path:
            scope["root_path"] = self._root_path
        scope.setdefault("state", {})["root_path"] = scope.get("root_path", "")
        _remove_root_path(scope)
        sent_id = Headers(scope=scope).get("x-request-id", "")
        request_id = sent_id if _SAFE_ID.fullmatch(sent_id) else f"{_PROCESS}{next(_numbers):016x}"
        scope["state"]["request_id"] = request_id
        started_at = anyio.current_time()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if ignored := scope["state"].get("ignored_fields"):
                    headers[HEADER] = ignored
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            finally:
                self._log_request(scope, anyio.current_time() - started_at)

    def _log_request(self, scope: Scope, seconds: float) -> None:
        # The template of the path, because the path itself contains user ids.
        path = getattr(scope.get("route"), "path", None) or logged_path(scope["path"], self._words) or None
        self._log.log(
            logging.DEBUG if _is_routine(scope["path"]) else logging.INFO,
            "request",
            method=scope["method"],
            path=path,
            status=scope["state"].get("status", 0),
            **scope["state"].get("problem", {}),
            seconds=round(seconds, 4),
        )


def _remove_root_path(scope: Scope) -> None:
    """Remove the path of a proxy from the request's path, exactly as it is written and once, if it is there.

    Some proxies and servers remove it themselves. The router would also remove other spellings of it, and remove it
    again: with the path `/api`, a request for `/api/api/chat` would end up at `/chat`.
    """
    root = scope.get("root_path", "")
    raw = scope.get("raw_path") or b""
    if root and scope["path"].startswith(f"{root}/") and raw.startswith(f"{root}/".encode()):
        scope["path"] = scope["path"][len(root) :]
        scope["raw_path"] = raw[len(root.encode()) :]
    if root and scope["path"].startswith(f"{root}/"):
        scope["root_path"] = ""


def _is_routine(path: str) -> bool:
    return path in _PROBES or path.startswith(_PAGE_FILES)


class UnexpectedErrors:
    """Logs exceptions that no handler maps to a problem, and answers with a 500; with a 503 to cancelled requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self._log.error("request failed", exc_info=error)
            if "status" in scope["state"]:
                raise  # the server then aborts the connection: a truncated response must not look complete
            await chat_problem(scope["state"]["request_id"], InternalError())(scope, receive, send)
        except CancelledError:  # by the server, which closes its connections at the end of a shutdown
            if "status" not in scope["state"]:
                await chat_problem(scope["state"]["request_id"], ServerShuttingDown())(scope, receive, send)


class Gate:
    """Rejects requests while the service waits for its stores or drains, except health checks.

    `retry_after` is how many seconds a client should wait for the stores.
    """

    def __init__(self, app: ASGIApp, *, retry_after: float = 5) -> None:
        self._app = app
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rejection = None
        if scope["type"] == "http" and scope["path"] not in _ALWAYS_SERVED:
            rejection = self._rejection(scope["app"].state)
        if rejection is not None:
            response = chat_problem(scope["state"]["request_id"], rejection)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _rejection(self, state: State) -> ChatError | None:
        if state.drain.draining:
            return ServerShuttingDown()
        return HistoryUnavailable(retry_after=self._retry_after) if state.lifespan.waiting else None
