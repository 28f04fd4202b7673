"""Chat Completions of one service: the SDK says what a request looks like and what a refusal means."""

from typing import Final
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from adapters.openai_api.http_client import HttpClient, tls_context
from adapters.openai_api.network_causes import Proxy
from adapters.proxies import proxy_for

_STREAM: Final[bool] = True
"""Makes the SDK return the response before its body has arrived, as the class that it is cast to."""

_HEADERS: Final = {"Accept": "text/event-stream"}

_SET_BY_AIOHTTP: Final = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})


class ModelService:
    """Sends calls to a model's service.

    The SDK knows base URLs, credentials and the headers that a service expects. It makes one request, which is not
    sent: its URL and headers are those of all requests. Making and sending each request with the SDK takes five times
    as long. Status errors go through the SDK in the same way (ADR 10).
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        connect_timeout: float,
        idle_timeout: float,
        keep_alive: float,
        max_error_bytes: int = 64 * 1024,
    ) -> None:
        self._api_key = api_key
        self._base_url, self._query = _split_query(base_url)
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._keep_alive = keep_alive
        self._max_error_bytes = max_error_bytes
        self._tls_context = tls_context(base_url)
        self._http: HttpClient | None = None
        self.proxied: Proxy | None = None
        self.may_lack_tls = False
        """Requests are sent to the service, not to a proxy, without TLS, and it has not responded to any yet."""

    async def send(self, content: bytes) -> aiohttp.ClientResponse:
        """Send a request with this body; return when the head of a 2xx response has arrived.

        Raises:
            openai.APIStatusError: The service responded with another status.
            Exception: Any other of `errors.FOREIGN_ERRORS`.
        """
        http = self._http or await self._open()
        response = await http.post(content)
        self.may_lack_tls = False
        if not 200 <= response.status < 300:
            await self._raise_status_error(response)
        return response

    async def close(self) -> None:
        """Close the connections. No request may be running or follow."""
        if self._http is not None:
            await self._http.close()

    async def _open(self) -> HttpClient:
        request = await self._through_sdk(httpx2.Response(200))
        if self._http is None:  # else a concurrent call has opened it
            url = str(request.url.copy_with(userinfo=b"")) + self._query
            headers = {name: value for name, value in request.headers.items() if name not in _SET_BY_AIOHTTP}
            if "api-version=" in self._query:  # Azure, which does not accept a key as a bearer token
                headers["api-key"] = self._api_key
            proxy = proxy_for(url)
            self.may_lack_tls = url.startswith("http:") and proxy is None
            if proxy is not None:
                parts = urlsplit(proxy)
                port = parts.port or (443 if parts.scheme == "https" else 80)
                self.proxied = Proxy(parts.hostname or "", port, tunnels=url.startswith("https:"))
            self._http = HttpClient(
                url,
                headers,
                tls_context=self._tls_context,
                proxy=proxy,
                connect_timeout=self._connect_timeout,
                keep_alive=self._keep_alive,
            )
        return self._http

    async def _raise_status_error(self, response: aiohttp.ClientResponse) -> None:
        try:
            body = await _read_up_to(self._max_error_bytes, response.content)
        finally:
            discard(response)
        decoded = {b"content-encoding", b"content-length", b"transfer-encoding"}
        headers = [(name, value) for name, value in response.raw_headers if name.lower() not in decoded]
        await self._through_sdk(httpx2.Response(response.status, headers=headers, content=body))
        raise AssertionError("The SDK accepts a status that is not 2xx.")

    async def _through_sdk(self, response: httpx2.Response) -> httpx2.Request:
        """Have the SDK send a request that receives `response`; return the request.

        Raises:
            openai.APIStatusError: The meaning of `response`, if it is not 2xx.
        """
        transport = _Loopback(response)
        http = httpx2.AsyncClient(transport=transport, trust_env=False)
        sdk = openai.AsyncOpenAI(
            api_key=self._api_key, base_url=self._base_url, http_client=http, timeout=self._idle_timeout, max_retries=0
        )
        # The SDK's own method for this path would import a module for each type of its API.
        await sdk.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=b"",
            options={"headers": _HEADERS},
            stream=_STREAM,
            stream_cls=openai.AsyncStream[object],
        )
        return transport.requests[0]


def _split_query(url: str) -> tuple[str, str]:
    """Return a URL without its query, and the query with its question mark. The SDK would append paths to the query.

    >>> _split_query("https://host/x?api-version=1")
    ('https://host/x', '?api-version=1')
    """
    base, mark, query = url.partition("#")[0].partition("?")
    return base, mark + query if query else ""


class _Loopback(httpx2.AsyncBaseTransport):
    """Records requests instead of sending them."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._response


async def _read_up_to(limit: int, content: aiohttp.StreamReader) -> bytes:
    body = b""
    while len(body) < limit and (data := await content.read(limit - len(body))):
        body += data
    return body


def discard(response: aiohttp.ClientResponse) -> None:
    """Be done with a response. If it was not read to its end, its connection is closed at once.

    aiohttp by itself would first send what is buffered and, over TLS, wait for the service to agree.
    """
    connection = response.connection  # None once the body was read to its end
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()
