"""Middleware for API surfaces that differ in more than their routes: by the prefix of their paths."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from entrypoints.http.problems import ErrorFormat


class ErrorsBelow:
    """Reports every error below a path in another format, whatever raises it: routes, middleware, the server."""

    def __init__(self, app: ASGIApp, prefix: str, error_format: ErrorFormat) -> None:
        self._app = app
        self._prefix = prefix
        self._error_format = error_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_below(scope, self._prefix):
            scope["state"]["error_format"] = self._error_format
        await self._app(scope, receive, send)


class BelowAndElsewhere:
    """Applies one middleware to the requests below a path, and another one to all others."""

    def __init__(
        self,
        app: ASGIApp,
        prefix: str,
        below: Callable[[ASGIApp], ASGIApp],
        elsewhere: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        self._prefix = prefix
        self._below = below(app)
        self._elsewhere = elsewhere(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._below if _is_below(scope, self._prefix) else self._elsewhere
        await app(scope, receive, send)


def _is_below(scope: Scope, prefix: str) -> bool:
    path: str = scope.get("path", "")
    return scope["type"] == "http" and (path == prefix or path.startswith(f"{prefix}/"))
