"""Connections to a model's service: how they are made, and kept between two requests."""

import asyncio
import ssl
from collections.abc import Sequence
from socket import SOCK_STREAM
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import aiohappyeyeballs
import httpx2

from adapters.openai_api.connection import Connection
from adapters.openai_api.proxy import PORTS, Proxy

KEEP_ALIVE: Final = 3.0
"""Seconds that an idle connection is kept: less than the five after which many servers close theirs, since a request
that meets the closing end is lost without a word."""

LOOKUP_AGE: Final = 10.0
"""Seconds for which the addresses of a name are not looked up again."""

NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address of a name is tried as well (RFC 8305)."""


class NotConnected(Exception):
    """There is no connection; nothing of a request was sent."""


class Connections:
    """To the service at one URL, secured if `secure` says whom to believe, through `proxy` if there is one."""

    def __init__(self, url: str, secure: ssl.SSLContext | None, proxy: Proxy | None, *, connect_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._url = urlsplit(url)
        self._proxy = proxy
        self._connect_timeout = connect_timeout
        self._secure = secure
        self._proxy_secure = believed(proxy.url.geturl()) if proxy else None
        self._idle: dict[Connection, asyncio.TimerHandle] = {}
        self._addresses: Sequence[Any] = ()
        self._looked_up_at = 0.0

    async def take(self) -> Connection:
        """A connection for one request; releasing the answer gives it back.

        Raises:
            NotConnected: none could be made within `connect_timeout` seconds.
        """
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.open:
                return connection
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._connect()
            if not connection.open:
                connection.close()
                raise ConnectionResetError("The service closed the connection at once.")
        except Exception as error:  # the loops have all kinds of them for what closes meanwhile, asyncio a TypeError
            self._addresses = ()
            raise NotConnected from error
        return connection

    def close(self) -> None:
        """Close what is idle. No connection may be in use."""
        while self._idle:
            self._drop(next(iter(self._idle)))

    def _keep(self, connection: Connection) -> None:
        self._idle[connection] = self._loop.call_later(KEEP_ALIVE, self._drop, connection)

    def _drop(self, connection: Connection) -> None:
        self._idle.pop(connection).cancel()
        connection.close()

    async def _connect(self) -> Connection:
        if self._proxy is None:
            return await self._reach(self._url, self._secure)
        near = await self._reach(self._proxy.url, self._proxy_secure)
        return near if self._secure is None else await self._tunnel(near, self._proxy, self._secure)

    async def _reach(self, url: SplitResult, secure: ssl.SSLContext | None) -> Connection:
        sock = await aiohappyeyeballs.start_connection(
            await self._look_up(url), happy_eyeballs_delay=NEXT_ADDRESS, interleave=1, loop=self._loop
        )
        connection = Connection(self._loop, self._keep)
        try:
            await self._loop.create_connection(lambda: connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection if secure is None else await self._secured(connection, secure, url)

    async def _look_up(self, url: SplitResult) -> Sequence[Any]:
        if url.scheme not in PORTS or not url.hostname:
            raise OSError("The environment names a proxy that is none for HTTP.")
        if not self._addresses or self._loop.time() > self._looked_up_at + LOOKUP_AGE:
            port = url.port or PORTS[url.scheme]
            self._addresses = await self._loop.getaddrinfo(url.hostname, port, type=SOCK_STREAM)
            self._looked_up_at = self._loop.time()
        return self._addresses

    async def _tunnel(self, near: Connection, proxy: Proxy, secure: ssl.SSLContext) -> Connection:
        """A connection through one to the proxy, which sees who is called, and nothing of what is said."""
        name = self._url.hostname or ""
        target = f"{f'[{name}]' if ':' in name else name}:{self._url.port or PORTS['https']}".encode()
        try:
            head = b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (target, target, proxy.authorization)
            answer = await near.ask(head)
            if not 200 <= answer.status < 300:
                raise ConnectionRefusedError(f"The proxy answered {answer.status}.")
        except BaseException:
            near.close()
            raise
        return await self._secured(near, secure, self._url)

    async def _secured(self, near: Connection, secure: ssl.SSLContext, url: SplitResult) -> Connection:
        """A connection within another one.

        `create_connection` can do the same, but where it is cancelled at the end of the handshake, its transport stays
        with the loop for half a minute, in the way of the next socket that the system gives the same number.
        """
        far = Connection(self._loop, self._keep, near)
        try:
            if not near.open:
                raise ConnectionResetError("The connection was closed before it could be secured.")
            transport = await self._loop.start_tls(near.hand_on(), far, secure, server_hostname=url.hostname)
        except BaseException:
            near.close()
            raise
        assert transport is not None, "it is None for servers whose clients have left"
        far.connection_made(transport)
        return far


def believed(url: str) -> ssl.SSLContext | None:
    """Who is believed to be the host of `url`; None where that is plain, which saves 80 ms of loading certificates."""
    return httpx2.create_ssl_context() if urlsplit(url).scheme == "https" else None
