"""A limit on what is read of an answer: mem0's client reads it whole, however long it is."""

from collections.abc import AsyncIterator
from typing import Final

import httpx

LIMIT: Final = 16_000_000
"""Bytes: a hundred memories are far below it. What was cut is no JSON any more, and thereby refused."""


async def cap(response: httpx.Response) -> None:
    """A hook for each response."""
    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _CappedStream(response.stream)


class _CappedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = LIMIT
        async for read in self._stream:
            yield read[:left]
            left -= len(read)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()
