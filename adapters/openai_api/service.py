"""Requests to a model's service: the SDK says what they look like and what a refusal means, aiohttp carries them."""

import ssl
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai

from adapters.openai_api.stream import LIMIT

KEEP_ALIVE: Final = 3.0
"""Seconds that an idle connection is kept: less than the five after which many servers close theirs, since a request
that meets the closing end is lost without a word."""

_STREAM: Final[bool] = True
"""Hands the response over before its body has come; as a response, since that is what it is cast to."""

_HEADERS: Final = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}

_OF_THE_CONNECTION: Final = frozenset({"host", "connection", "content-length", "transfer-encoding"})
"""Headers that whoever carries a request sets."""


class ModelService:
    """Chat Completions of one service.

    The SDK makes one request, into the void, whose address and headers all requests share: it knows base URLs,
    credentials and what else a service wants to be told. Having it make and send each request would take
    five times as long.
    """

    def __init__(
        self, *, api_key: str, base_url: str, connect_timeout: float, idle_timeout: float, max_connections: int
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._idle_timeout = idle_timeout
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout)
        self._trusted = trusted(base_url)
        self._session: aiohttp.ClientSession | None = None
        self._url = ""
        self._headers: dict[str, str] = {}

    async def ask(self, content: bytes) -> aiohttp.ClientResponse:
        """Send a request with this body. Returns when the head of an answer with a status of 2xx has come.

        Raises:
            openai.APIStatusError: the service refuses.
            Exception: any other of `errors.FOREIGN`.
        """
        session = self._session or await self._open()
        answer = await session.post(
            self._url, data=content, headers=self._headers, timeout=self._timeout, allow_redirects=False
        )
        if not 200 <= answer.status < 300:
            await self._refuse(answer)
        return answer

    async def close(self) -> None:
        """Close the connections. No request may be under way or follow."""
        if self._session is not None:
            await self._session.close()

    async def _open(self) -> aiohttp.ClientSession:
        request = await self._through_sdk(httpx2.Response(200))
        self._url = str(request.url)
        self._headers = {name: value for name, value in request.headers.items() if name not in _OF_THE_CONNECTION}
        if self._session is None:  # nobody was faster
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=KEEP_ALIVE, ssl=self._trusted
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                proxy=_proxy(self._url),
            )
        return self._session

    async def _refuse(self, answer: aiohttp.ClientResponse) -> None:
        try:
            body = await _capped(answer.content)
        finally:
            answer.close()
        kept = [(name, value) for name, value in answer.raw_headers if name.lower() != b"transfer-encoding"]
        await self._through_sdk(httpx2.Response(answer.status, headers=kept, content=body))
        raise AssertionError("The SDK takes an answer for a success that is none.")

    async def _through_sdk(self, answer: httpx2.Response) -> httpx2.Request:
        """Have the SDK send a request, and get `answer`.

        Raises:
            openai.APIStatusError: what the answer means, if it is a refusal.
        """
        network = _NoNetwork(answer)
        http = httpx2.AsyncClient(transport=network, trust_env=False)
        sdk = openai.AsyncOpenAI(
            api_key=self._api_key, base_url=self._base_url, http_client=http, timeout=self._idle_timeout, max_retries=0
        )
        # Below the SDK's own method for this path, which loads a module for each of its API's types.
        await sdk.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=b"",
            options={"headers": _HEADERS},
            stream=_STREAM,
            stream_cls=openai.AsyncStream[object],
        )
        return network.requests[0]


class _NoNetwork(httpx2.AsyncBaseTransport):
    """Notes what would be sent."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._answer = answer
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer


async def _capped(content: aiohttp.StreamReader) -> bytes:
    """What a refusal says, as far as anyone wants to know."""
    body = b""
    while len(body) < LIMIT and (read := await content.readany()):
        body += read
    return body[:LIMIT]


def trusted(url: str) -> ssl.SSLContext:
    """Whom to believe: nobody where the URL is plain, which saves what loading certificates and their reader takes."""
    if urlsplit(url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.create_ssl_context()


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`, read once: the HTTP client would ask it at every request."""
    target, proxies = urlsplit(url), getproxies()
    if proxy_bypass(target.hostname or ""):
        return None
    return proxies.get(target.scheme) or proxies.get("all")
