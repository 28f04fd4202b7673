"""Middleware that finds out who sends a request, before its route is looked up and its body is read."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from domain.api_key import PREFIX
from domain.errors import AmbiguousCredentials, AuthNotConfigured, ChatError, Unauthenticated
from domain.principal import ANONYMOUS, Principal
from entrypoints.configuration.types import IPNetwork
from entrypoints.http.errors import chat_problem
from entrypoints.http.loopback import is_local

Authenticate = Callable[[str, str], Awaitable[Principal]]
"""Returns the principal of a credential that was sent from an address; raises ChatError."""

_BEARER: Final = b"bearer "


class NoAuthentication:
    """Serves every request as anonymous; with `local_only`, unless it may come from another machine or site."""

    def __init__(self, app: ASGIApp, *, local_only: bool) -> None:
        self._app = app
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._local_only and not is_local(scope):
                await _refuse(AuthNotConfigured(), scope, receive, send)
                return
            scope["state"]["principal"] = ANONYMOUS
        await self._app(scope, receive, send)


class Authentication:
    """Refuses requests without a valid credential, except those for one of `open_paths`.

    Decides on the path as it was sent, not on one that was derived from it or from the header `Host`. The credential is
    checked once per request: a stream goes on if it expires. `X-Forwarded-For` is read only from `trusted_proxies`.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Authenticate,
        *,
        open_paths: Collection[str],
        trusted_proxies: Sequence[IPNetwork] = (),
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._open_paths = frozenset(path.encode() for path in open_paths)
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("raw_path") not in self._open_paths:
            try:
                credential = _credential(scope)
                principal = await self._authenticate(credential, client_address(scope, self._trusted_proxies))
            except ChatError as error:
                await _refuse(error, scope, receive, send)
                return
            scope["state"]["principal"] = principal
        await self._app(scope, receive, send)


def client_address(scope: Scope, trusted_proxies: Sequence[IPNetwork]) -> str:
    """Return the address of the client: the last one in `X-Forwarded-For` that is not a trusted proxy's.

    The header counts only if a trusted proxy has sent the request. Returns the address of the connection otherwise, and
    an empty string if that is unknown.
    """
    client = scope.get("client")
    address = str(client[0]) if client else ""
    if not _is_within(address, trusted_proxies):
        return address
    values = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    for forwarded in reversed([value.strip() for value in values.split(",")]):
        try:
            # An IPv6 zone (`fe80::1%eth0`) is removed. It may be any text, and addresses are logged and counted.
            address = str(ip_address(forwarded.partition("%")[0]))
        except ValueError:  # no address, so no proxy has written it, nor anything to its left that can be trusted
            break
        if not _is_within(address, trusted_proxies):
            break
    return address


def _is_within(address: str, networks: Sequence[IPNetwork]) -> bool:
    if not networks:
        return False
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _credential(scope: Scope) -> str:
    """Return the API key or token of a request.

    Raises:
        Unauthenticated: There is none.
        AmbiguousCredentials: There are several.
    """
    found = [(name, value) for name, value in scope["headers"] if name in (b"authorization", b"x-api-key")]
    if len(found) > 1:
        raise AmbiguousCredentials("Send either Authorization or X-API-Key, once.")
    if not found:
        raise Unauthenticated
    [(name, value)] = found
    if name == b"authorization":
        if value[: len(_BEARER)].lower() != _BEARER:
            raise Unauthenticated
        value = value[len(_BEARER) :]
    try:
        credential = str(value, "ascii").strip(" ")
    except UnicodeDecodeError:
        raise Unauthenticated from None
    if not credential or (name == b"x-api-key" and not credential.startswith(PREFIX)):
        raise Unauthenticated
    return credential


async def _refuse(error: ChatError, scope: Scope, receive: Receive, send: Send) -> None:
    await chat_problem(scope["state"]["request_id"], error)(scope, receive, send)
