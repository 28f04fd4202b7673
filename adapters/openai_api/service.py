"""Requests to a model's service: the SDK says what they look like and what a refusal means, connections carry them."""

from typing import Final
from urllib.parse import urlsplit

import httpx2
import openai

from adapters.openai_api.connection import Answer
from adapters.openai_api.connections import Connections, NotConnected, believed
from adapters.openai_api.proxy import Proxy
from adapters.openai_api.stream import LIMIT

_STREAM: Final[bool] = True
"""Hands the response over before its body has come; as a response, since that is what it is cast to."""

_HEADERS: Final = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}

_OF_ONE_REQUEST: Final = frozenset({"connection", "content-length", "transfer-encoding"})
"""Headers that are not those of all requests."""


class ModelService:
    """Chat Completions of one service.

    The SDK makes one request, into the void, whose address and headers all requests share: it knows base URLs,
    credentials and what else a service wants to be told. Having it make and send each request would take
    five times as long.
    """

    def __init__(self, *, api_key: str, base_url: str, connect_timeout: float, idle_timeout: float) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._secure = believed(base_url)
        self._connections: Connections | None = None
        self._head = b""
        """What all requests begin with, up to the length of their body."""

    async def ask(self, content: bytes) -> Answer:
        """Send a request with this body. Returns when the head of an answer with a status of 2xx has come.

        Raises:
            openai.APIStatusError: the service refuses.
            Exception: any other of `errors.FOREIGN`.
        """
        connections = self._connections or await self._open()
        connection = await connections.take()
        answer = await connection.ask(b"%b%d\r\n\r\n%b" % (self._head, len(content), content))
        if not 200 <= answer.status < 300:
            await self._refuse(answer)
        return answer

    def close(self) -> None:
        """Close the connections. No request may be under way or follow."""
        if self._connections is not None:
            self._connections.close()

    async def _open(self) -> Connections:
        request = await self._through_sdk(httpx2.Response(200))
        url = str(request.url)
        try:
            proxy = Proxy.on_the_way_to(urlsplit(url))
        except ValueError as error:
            raise NotConnected from error
        self._head = _head(request, proxy)
        if self._connections is None:  # nobody was faster
            self._connections = Connections(url, self._secure, proxy, connect_timeout=self._connect_timeout)
        return self._connections

    async def _refuse(self, answer: Answer) -> None:
        try:
            body = await _capped(answer)
        finally:
            answer.release()
        kept = [(name, value) for name, value in answer.headers if name != "transfer-encoding"]
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


def _head(request: httpx2.Request, proxy: Proxy | None) -> bytes:
    """Raises: ValueError: a header would be taken for more than one."""
    plainly_proxied = proxy is not None and request.url.scheme == "http"
    url = request.url
    target = b"%b://%b%b" % (url.raw_scheme, url.netloc, url.raw_path) if plainly_proxied else url.raw_path
    head = b"POST %b HTTP/1.1\r\n" % target
    for name, value in request.headers.raw:
        if b"\r" in value or b"\n" in value:
            raise ValueError(f"The header {name.decode()} has several lines.")
        if name.lower().decode() not in _OF_ONE_REQUEST:
            head += b"%b: %b\r\n" % (name, value)
    if proxy is not None and plainly_proxied:
        head += proxy.authorization
    return head + b"content-length: "


async def _capped(answer: Answer) -> bytes:
    """What a refusal says, as far as anyone wants to know."""
    body = b""
    while len(body) < LIMIT and (read := await answer.read(LIMIT)):
        body += read
    return body[:LIMIT]
