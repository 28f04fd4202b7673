"""A size limit for responses: mem0's client reads each of them whole."""

from collections.abc import AsyncIterator

import httpx


class SizeLimit:
    """An httpx hook that truncates response bodies to `max_bytes`. Truncated JSON is then rejected as invalid.

    Bytes are counted as they arrive, so compression must be off.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def __call__(self, response: httpx.Response) -> None:
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _TruncatedStream(response.stream, self._max_bytes)


class _TruncatedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for chunk in self._stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()
