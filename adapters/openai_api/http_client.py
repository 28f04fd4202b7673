"""Posts to a model's service on aiohttp, which does TLS, proxies, compression and the reuse of connections."""

import asyncio
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final
from urllib.request import getproxies
from weakref import WeakSet

import aiohttp
import httpx2
from aiohttp.connector import Connection


class ConnectError(Exception):
    """There is no connection to the service, so nothing was sent."""


class HttpClient:
    """Posts to one URL. Connections are reused, but a request that finds its connection stale gets a new one.

    A service may close an idle connection at any time. If that crosses with a request, the connection ends before the
    first byte of a response, and the request has most likely not been read: it is sent again, once, on a connection
    that no request has used. A new connection that ends so early is an error: the service may have worked, and billed.

    Args:
        headers: Sent with every request. aiohttp adds those of the connection and the encodings that it decodes.
        proxy: URL of an HTTP proxy.
        connect_timeout: Seconds for a new connection, including name lookup, proxy and TLS.
        keep_alive: Seconds for which an idle connection is kept.
        read_buffer: Bytes of a body that wait for their reader. Reading from the network stops at twice as many.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        tls_context: ssl.SSLContext | None,
        proxy: str | None,
        connect_timeout: float,
        keep_alive: float,
        read_buffer: int = 64 * 1024,
    ) -> None:
        self._url = url
        self._headers = headers
        self._tls = tls_context or True
        self._proxy = proxy
        self._timeout = aiohttp.ClientTimeout(connect=connect_timeout)
        self._read_buffer = read_buffer
        self._pooled = self._session(keepalive_timeout=keep_alive)
        # Bypasses the pool, whose other idle connections are probably stale as well.
        self._unpooled = self._session(force_close=True)

    async def post(self, content: bytes) -> aiohttp.ClientResponse:
        """Send `content`; return when the head of the response has arrived. Redirects are not followed.

        Raises:
            ConnectError: The service, or the proxy, cannot be connected to.
            aiohttp.ClientError, OSError, ValueError: There is no response, for another reason.
        """
        try:
            return await self._send(self._pooled, content)
        except (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError, aiohttp.ServerDisconnectedError) as error:
            if not _reused.get() or _response_began(error):
                raise
        return await self._send(self._unpooled, content)

    async def close(self) -> None:
        """Close all connections. No request may be running or follow."""
        await self._pooled.close()
        await self._unpooled.close()

    async def _send(self, session: aiohttp.ClientSession, content: bytes) -> aiohttp.ClientResponse:
        # Headers of the session would go to a proxy as well.
        return await session.post(self._url, data=content, headers=self._headers, allow_redirects=False)

    def _session(self, **pooling: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(limit=0, ssl=self._tls, **pooling),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            proxy=self._proxy,
            read_bufsize=self._read_buffer,
        )


_reused: Final = ContextVar("reused", default=False)
"""Whether the latest request of this task got a connection that an earlier one had used."""


class _Connector(aiohttp.TCPConnector):
    """Records whether a connection is reused, and raises `ConnectError` if none can be made.

    A `TraceConfig` could do the same, but takes a tenth of the time of a call.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: WeakSet[asyncio.BaseProtocol] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        try:
            connection = await super().connect(*args, **kwargs)
        except (aiohttp.ClientConnectionError, aiohttp.ClientResponseError, OSError) as error:
            raise ConnectError from error
        except (AttributeError, TypeError) as error:
            # asyncio of Python 3.11.2 raises them if TLS within a TLS proxy fails: it cannot abort the inner transport.
            raise ConnectError from error
        assert connection.protocol is not None, "it was just acquired"
        _reused.set(connection.protocol in self._used)
        self._used.add(connection.protocol)
        return connection


def _response_began(error: aiohttp.ClientError) -> bool:
    """Whether the connection ended within the head of a response, of which aiohttp then reports what it has."""
    return isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)


def tls_context(url: str) -> ssl.SSLContext | None:
    """Load the certificates that the SDK trusts, which takes 80 ms.

    Return None without loading them if neither `url` nor any proxy in the environment uses TLS.
    """
    encrypted = any(each.lower().startswith("https:") for each in (url, *getproxies().values()))
    return httpx2.create_ssl_context() if encrypted else None
