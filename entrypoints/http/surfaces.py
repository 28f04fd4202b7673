"""Middleware for API surfaces that differ in more than their routes: by the prefix of their paths."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from entrypoints.http.problems import ErrorFormat


class ErrorsUnderPrefix:
    """Reports errors of the paths with a prefix in another format, also those of middleware and of the server."""

    def __init__(self, app: ASGIApp, prefix: str, error_format: ErrorFormat) -> None:
        self._app = app
        self._prefix = prefix
        self._error_format = error_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _has_prefix(scope, self._prefix):
            scope["state"]["error_format"] = self._error_format
        await self._app(scope, receive, send)


class SplitByPrefix:
    """Applies one middleware to the requests whose path has a prefix, and another one to all others."""

    def __init__(
        self,
        app: ASGIApp,
        prefix: str,
        with_prefix: Callable[[ASGIApp], ASGIApp],
        others: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        self._prefix = prefix
        self._with_prefix = with_prefix(app)
        self._others = others(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._with_prefix if _has_prefix(scope, self._prefix) else self._others
        await app(scope, receive, send)


def _has_prefix(scope: Scope, prefix: str) -> bool:
    path: str = scope.get("path", "")
    return scope["type"] == "http" and (path == prefix or path.startswith(f"{prefix}/"))
