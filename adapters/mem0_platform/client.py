"""Calls to Mem0's platform through the package's client, with timeouts, a size limit and a replaceable pool.

docs/adr/0013-a-wrapper-around-mem0s-client.md tells why the package's client is not used as it is.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import structlog

from adapters.daemon_threads import run_in_daemon_thread
from adapters.error_translation import foreign_error
from adapters.mem0_import import import_mem0
from adapters.mem0_platform import errors
from adapters.mem0_platform.hints import not_built
from adapters.mem0_platform.size_limit import SizeLimit
from domain.errors import ChatError, Unusable

_PUBLIC_URL: Final = "https://api.mem0.ai"

Request = Callable[[Any], Awaitable[Any]]
"""Sends one request with mem0's client, and returns the decoded body."""


class PlatformClient:
    """Sends requests to the platform. All timeouts are in seconds.

    After `max_pool_timeouts` requests in a row that got no connection, the connections are taken to be leaked and the
    client is replaced. Nothing is sent before the first request.
    """

    def __init__(
        self,
        *,
        api_key: str,
        host: str | None,
        data_dir: Path,
        now: Callable[[], datetime],
        connect_timeout: float,
        request_timeout: float,
        pool_timeout: float,
        max_connections: int,
        max_response_bytes: int,
        max_pool_timeouts: int = 3,
        build_timeout: float = 10.0,
    ) -> None:
        self._api_key = api_key
        self._host = host
        self._url = host or _PUBLIC_URL
        self._data_dir = data_dir
        self._now = now
        self._timeout = httpx.Timeout(request_timeout, connect=connect_timeout, pool=pool_timeout)
        self._limits = httpx.Limits(max_connections=max_connections)
        self._size_limit = SizeLimit(max_response_bytes)
        self._request_timeout = request_timeout
        self._max_pool_timeouts = max_pool_timeouts
        self._build_timeout = build_timeout
        self._client: Any = None
        self._building: asyncio.Task[None] | None = None
        self._retiring: dict[asyncio.Task[None], httpx.AsyncClient] = {}
        self._pool_timeouts = 0

    async def open(self) -> None:
        """Import mem0 and build its client.

        Raises:
            Unusable: mem0ai is not installed, or its directory cannot be created.
            MemoryUnavailable: the client cannot be built; the next request tries again.
        """
        # In the executor, whose threads are joined at exit: an import may crash if the interpreter ends during it.
        await asyncio.to_thread(import_mem0, self._data_dir)
        await self._get_client()

    async def close(self) -> None:
        """Close the connections. No request may be running or follow."""
        if self._building:
            self._building.cancel()
        for task, client in list(self._retiring.items()):
            task.cancel()
            await client.aclose()
        if self._client:
            await self._client.async_client.aclose()

    async def call(self, request: Request, *, absent: Collection[int] = ()) -> Any:
        """Send a request and return the decoded body.

        Raises:
            MemoryUnavailable, MemoryRefused: see the port.
            MemoryNotFound: the status is in `absent`.
        """
        client = await self._get_client()
        failure: ChatError
        try:
            # httpx's read timeout starts anew with each chunk.
            async with asyncio.timeout(self._request_timeout):
                body = await request(client)
        except Exception as error:
            failure = errors.translate(error, absent, self._now(), self._url)
            self._watch_pool(client, timed_out=errors.is_pool_timeout(error))
        else:
            self._watch_pool(client, timed_out=False)
            return body
        raise failure  # outside of the handler, so that the platform's text does not become its context

    async def execute(self, request: Request, *, absent: Collection[int] = ()) -> None:
        """Send a request and ignore the body of a successful response. Raises the same as `call`."""

        async def send(client: Any) -> None:
            with suppress(json.JSONDecodeError):  # an empty body: mem0's client checks the status, then decodes
                await request(client)

        await self.call(send, absent=absent)

    async def get(self, path: str, *, absent: Collection[int] = ()) -> Any:
        """GET a path that mem0's client has no method for. Raises the same as `call`."""

        async def send(client: Any) -> Any:
            response = await client.async_client.get(path)
            response.raise_for_status()
            return response.json()

        return await self.call(send, absent=absent)

    def _watch_pool(self, client: Any, *, timed_out: bool) -> None:
        """Replace the client after too many pool timeouts in a row."""
        if client is not self._client:
            return  # replaced while the request ran
        self._pool_timeouts = self._pool_timeouts + 1 if timed_out else 0
        if self._pool_timeouts >= self._max_pool_timeouts:
            structlog.get_logger().warning("memory client rebuilt", pool_timeouts=self._pool_timeouts)
            self._client, self._pool_timeouts = None, 0
            task = asyncio.get_running_loop().create_task(self._retire(client.async_client))
            self._retiring[task] = client.async_client
            task.add_done_callback(self._retiring.pop)

    async def _retire(self, http: httpx.AsyncClient) -> None:
        """Close a replaced client when no request can be running on it any more."""
        await asyncio.sleep(self._request_timeout)
        await http.aclose()

    async def _get_client(self) -> Any:
        while self._client is None:
            if self._building is None or self._building.done():
                self._building = asyncio.get_running_loop().create_task(self._build())
                self._building.add_done_callback(_mark_retrieved)
            await asyncio.shield(self._building)  # shared by all callers: one that is cancelled must not end it
        return self._client

    async def _build(self) -> None:
        failure: ChatError
        try:
            async with asyncio.timeout(self._build_timeout):
                self._client = await run_in_daemon_thread(self._new_client, name="mem0")
        except Unusable:
            raise
        except TimeoutError as error:
            failure = errors.translate(error, (), self._now())
        except Exception as error:
            failure = not_built()
            failure.__cause__ = foreign_error(error)
        else:
            return
        raise failure

    def _new_client(self) -> Any:
        """Build mem0's client. Blocks: it reads mem0's configuration and the CA certificates."""
        mem0 = import_mem0(self._data_dir)

        class Client(mem0.AsyncMemoryClient):  # type: ignore[name-defined,misc]  # mem0 has no types
            def _validate_api_key(self) -> None:
                """Skip the ping that the constructor sends here: a blocking request without a timeout.

                The constructor requires both of these, and only `.project`, which is not used here, reads them.
                """
                self.org_id = self.project_id = "unknown"

        http = httpx.AsyncClient(
            verify=_tls_context(self._url),
            timeout=self._timeout,
            limits=self._limits,
            headers={"Accept-Encoding": "identity"},  # for the size limit
            event_hooks={"response": [self._size_limit]},
        )
        return Client(api_key=self._api_key, host=self._host, client=http)


def _mark_retrieved(build: "asyncio.Task[None]") -> None:
    """Keep asyncio from logging the failure of a build whose callers have all been cancelled: the next one retries."""
    if not build.cancelled():
        build.exception()


def _tls_context(url: str) -> ssl.SSLContext:
    """Return the context for a URL; for plain http an empty one, since reading the CA certificates takes time."""
    if urlsplit(url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.create_ssl_context()
