"""mem0's client of its hosted service: built off the event loop, bounded in time, rebuilt when its pool is stuck."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import structlog

from adapters.daemon_threads import in_daemon_thread
from adapters.mem0_import import import_mem0
from adapters.mem0_platform import errors
from adapters.mem0_platform.size_limit import cap
from domain.errors import ChatError

STARVED_CALLS: Final = 3
"""Calls in a row that got no connection, after which connections are taken to be lost and the client is rebuilt."""

BUILD_TIMEOUT: Final = 10.0
"""Seconds for what takes milliseconds, unless a later mem0 waits for the platform again while it is built."""

Request = Callable[[Any], Awaitable[Any]]
"""One exchange with the platform, given mem0's client."""


class PlatformClient:
    """Exchanges with the platform, one at a time. All limits are in seconds.

    A platform that is down matters to exchanges only: nothing is sent before the first.
    """

    def __init__(
        self,
        *,
        api_key: str,
        host: str | None,
        data_dir: Path,
        connect_timeout: float,
        request_timeout: float,
        pool_timeout: float,
        max_connections: int,
    ) -> None:
        self._api_key = api_key
        self._host = host
        self._data_dir = data_dir
        self._timeout = httpx.Timeout(request_timeout, connect=connect_timeout, pool=pool_timeout)
        self._limits = httpx.Limits(max_connections=max_connections)
        self._request_timeout = request_timeout
        self._client: Any = None
        self._building: asyncio.Task[None] | None = None
        self._retiring: dict[asyncio.Task[None], httpx.AsyncClient] = {}
        self._starved = 0

    async def open(self) -> None:
        """Import mem0 and build the client.

        Raises:
            ImportError: mem0ai is not installed.
            OSError: mem0's folder can not be made.
            MemoryUnavailable, MemoryRefused: it could not be built; the next exchange tries again.
        """
        # In the executor, whose threads are joined at exit: an import that is cut off by the interpreter's end may
        # crash, and takes a second at most.
        await asyncio.to_thread(import_mem0, self._data_dir)
        await self._ready()

    async def close(self) -> None:
        """Close the connections. No exchange may be running or follow."""
        if self._building:
            self._building.cancel()
        for task, client in list(self._retiring.items()):
            task.cancel()
            await client.aclose()
        if self._client:
            await self._client.async_client.aclose()

    async def exchange(self, request: Request, *, absent: Collection[int] = ()) -> Any:
        """What the platform answers. Statuses in `absent` mean that there is no such memory.

        Raises:
            MemoryUnavailable, MemoryRefused: as the port says.
            MemoryNotFound: the status was in `absent`.
        """
        client = await self._ready()
        failure: ChatError
        try:
            # The transport's own limit starts anew with each piece of an answer.
            async with asyncio.timeout(self._request_timeout):
                answer = await request(client)
        except Exception as error:
            failure = errors.of_exception(error, absent)
            self._count(client, starved=errors.is_pool_timeout(error))
        else:
            self._count(client, starved=False)
            return answer
        raise failure  # outside of the handlers: what the platform wrote must not hang on it as its context

    async def tell(self, request: Request, *, absent: Collection[int] = ()) -> None:
        """Have the platform do something; what it says beside the status, if anything, does not matter.

        Raises as `exchange` does.
        """

        async def told(client: Any) -> None:
            with suppress(json.JSONDecodeError):  # raised for the body, once the status is known to be a success
                await request(client)

        await self.exchange(told, absent=absent)

    async def fetch(self, path: str, *, absent: Collection[int] = ()) -> Any:
        """What the platform answers at a path that mem0's client has no method for. Raises as `exchange` does."""

        async def get(client: Any) -> Any:
            response = await client.async_client.get(path)
            response.raise_for_status()
            return response.json()

        return await self.exchange(get, absent=absent)

    def _count(self, client: Any, *, starved: bool) -> None:
        if client is not self._client:
            return  # a late word of one that was replaced
        self._starved = self._starved + 1 if starved else 0
        if self._starved >= STARVED_CALLS:
            structlog.get_logger().warning("memory_client_rebuilt", starved_calls=self._starved)
            self._client, self._starved = None, 0
            task = asyncio.get_running_loop().create_task(self._retire(client.async_client))
            self._retiring[task] = client.async_client
            task.add_done_callback(self._retiring.pop)

    async def _retire(self, http: httpx.AsyncClient) -> None:
        """Close what was replaced once no exchange can be running on it any more."""
        await asyncio.sleep(self._request_timeout)
        await http.aclose()

    async def _ready(self) -> Any:
        while self._client is None:
            if self._building is None or self._building.done():
                self._building = asyncio.get_running_loop().create_task(self._build())
            # Shared and shielded: whoever gives up waiting must not start a second one, nor end the others'.
            await asyncio.shield(self._building)
        return self._client

    async def _build(self) -> None:
        failure: ChatError
        try:
            async with asyncio.timeout(BUILD_TIMEOUT):
                self._client = await in_daemon_thread(self._new_client)
        except Exception as error:
            failure = errors.of_exception(error, ())
        else:
            return
        raise failure

    def _new_client(self) -> Any:
        """mem0's client. Reads mem0's configuration and the certificates: not on an event loop."""
        mem0 = import_mem0(self._data_dir)

        class Client(mem0.AsyncMemoryClient):  # type: ignore[name-defined,misc]  # mem0 has no types
            def _validate_api_key(self) -> None:
                """Leaves out what the constructor does here: a request that blocks, without a time-out.

                The constructor wants both names that come with the answer; only `.project` uses them, and nobody that.
                """
                self.org_id = self.project_id = "unknown"

        http = httpx.AsyncClient(
            verify=_trusted(self._host or "https:"),
            timeout=self._timeout,
            limits=self._limits,
            headers={"Accept-Encoding": "identity"},  # what is capped is what comes over the wire
            event_hooks={"response": [cap]},
        )
        return Client(api_key=self._api_key, host=self._host, client=http)


def _trusted(url: str) -> ssl.SSLContext:
    """Whom to believe: nobody where the URL is plain, which saves the time that reading certificates takes."""
    if urlsplit(url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.create_ssl_context()
