"""The base of the contract suites: asynchronous tests that run in any project with pytest and anyio."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, TypeVar

import pytest

T = TypeVar("T")


@pytest.mark.anyio
class Suite(ABC, Generic[T]):
    """The tests of a port. In any directory, inherit them and define how to open the adapter, e.g.

    class TestHistoryRedis(DurableHistoryContract):
        @asynccontextmanager
        async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
            async with connect() as client:
                yield HistoryRedis(client, prefix=directory.name)
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # pytest passes over abstract classes in silence.
        if cls.__name__.startswith("Test") and getattr(cls.opened, "__isabstractmethod__", False):
            raise TypeError(f"{cls.__name__} must define opened().")

    @abstractmethod
    def opened(self, directory: Path) -> AbstractAsyncContextManager[T]:
        """Open the adapter; close it on leaving.

        `directory` is empty and unique to the test. A durable adapter, opened in the same directory again, still holds
        its data.
        """
        ...

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"
