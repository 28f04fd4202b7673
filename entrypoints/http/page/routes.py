"""The chat page at `/`: its files, and the session that tells it who its user is.

Each file has a route of its own with a fixed path. The files are public, because the page can only ask for a credential
once it is there; they contain no data. The page's URLs are relative, so that it also works below a prefix that a proxy
removes.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from entrypoints.http.dependencies import PrincipalDep, SettingsDep
from entrypoints.http.page.files import INDEX, PageFile, page_files
from entrypoints.http.policies import Policy, requires
from entrypoints.http.routing import SecuredRoute

CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",  # without 'self': a reply that contains an image must not send requests to the API
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)

_HEADERS: Final = {
    "Cache-Control": "no-cache",  # i.e. revalidated by its ETag on every load, so that an upgrade is complete
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}

_ZERO: Final = re.compile(r"q\s*=\s*0(\.0*)?")
"""The weight of what is not acceptable."""


class SessionView(BaseModel):
    user_id: str | None
    """The only user whose data the credential reaches; null if the page has to choose one."""
    model: str


def page_router(app_name: str) -> APIRouter:
    """Return the routes of the page. `app_name` is the name that it shows."""
    router = APIRouter(route_class=SecuredRoute, include_in_schema=False)
    for file in page_files(app_name):
        path = "/" if file.path == INDEX else f"/page/{file.path}"
        router.add_api_route(path, _serve(file), methods=["GET", "HEAD"], name=f"page {file.path}")
    router.add_api_route("/page/session", get_session, methods=["GET"])
    return router


@requires(Policy.SELF)
async def get_session(principal: PrincipalDep, settings: SettingsDep) -> SessionView:
    """Tell the page who has opened it. The user may be known from a token that a proxy adds to each request."""
    return SessionView(user_id=principal.user_id, model=settings.openai_model)


class _Representation(NamedTuple):
    content: bytes
    headers: Mapping[str, str]


def _serve(file: PageFile) -> Callable[[Request], Awaitable[Any]]:
    plain = _Representation(file.content, {"ETag": file.etag})
    # Another representation needs another ETag: https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3.3
    compressed = _Representation(file.compressed, {"ETag": f'{file.etag[:-1]}-gzip"', "Content-Encoding": "gzip"})

    @requires(Policy.PUBLIC)
    async def serve(request: Request) -> Response:
        chosen = compressed if _accepts_gzip(request.headers.get("accept-encoding", "")) else plain
        headers = {**_HEADERS, **chosen.headers}
        if chosen.headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(chosen.content, media_type=file.media_type, headers=headers)

    return serve


def _accepts_gzip(accepted: str) -> bool:
    """Return whether a client accepts gzip, see https://www.rfc-editor.org/rfc/rfc9110#section-12.5.3.

    >>> _accepts_gzip("br, gzip;q=0.5"), _accepts_gzip("gzip;q=0, *"), _accepts_gzip("*"), _accepts_gzip("")
    (True, False, True, False)
    """
    codings: dict[str, bool] = {}
    for offer in accepted.lower().split(","):
        coding, _, weight = offer.partition(";")
        codings[coding.strip()] = not _ZERO.fullmatch(weight.strip())
    return codings.get("gzip", codings.get("*", False))
