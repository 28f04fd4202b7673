"""The API documentation at `/docs`: Swagger UI, without requests to other hosts and without inline scripts.

FastAPI's own page loads its script from a content delivery network and starts it inline. The files of Swagger UI come
from the package `fastapi-standalone-docs`. URLs are relative, so that the page also works below a prefix that a proxy
removes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from entrypoints.http.policies import Policy, requires
from entrypoints.http.routing import SecuredRoute

CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

_ASSETS: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

_PIECE: Final = 64 * 1024
"""Bytes of a file that are sent at once. More of it would wait in memory for each client that does not read, and these
files have up to 1.6 MB and need no credential."""

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. The document itself is <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START: Final = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null, // that of swagger.io by default
});
"""


def docs_router(app_name: str) -> APIRouter:
    """Return the routes of the page and of its files; `app_name` is part of its title."""
    router = APIRouter(route_class=SecuredRoute, include_in_schema=False)
    page = _PAGE.format(title=escape(f"{app_name}: API documentation"))
    router.add_api_route("/docs", _text(page, "text/html", {"Content-Security-Policy": CONTENT_SECURITY_POLICY}))
    router.add_api_route("/docs/start.js", _text(_START, "text/javascript", {}))
    for name, media_type in _ASSETS.items():
        router.add_api_route(f"/docs/{name}", _file(name, media_type))
    return router


def _text(text: str, media_type: str, headers: dict[str, str]) -> Callable[[], Awaitable[Response]]:
    @requires(Policy.PUBLIC)
    async def serve() -> Response:
        return Response(text, media_type=media_type, headers=headers)

    return serve


def _file(name: str, media_type: str) -> Callable[[], Response]:
    package = find_spec("fastapi_standalone_docs")  # not imported: only its files are needed
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "static" / "swagger" / name

    @requires(Policy.PUBLIC)
    def serve() -> Response:
        content = _content(path)
        headers = {"Cache-Control": "max-age=3600", "Content-Length": str(len(content))}
        return StreamingResponse(_pieces(content), media_type=media_type, headers=headers)

    return serve


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]
