"""The base of the contract suites: asynchronous tests that run in any project with pytest and anyio."""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Concatenate, Generic, ParamSpec, TypeVar

import pytest

T = TypeVar("T")
P = ParamSpec("P")

DIED = 9
"""Exit status of a process that `call_and_die` ended."""


@pytest.mark.anyio
class Suite(ABC, Generic[T]):
    """The tests of a port. In any directory, inherit them at module level and define how to open the adapter, e.g.

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
        its data. It is opened in another process, too, which imports the test module and then dies without closing it.
        """
        ...

    async def call_in_dying_process(
        self,
        directory: Path,
        call: Callable[Concatenate[T, P], Awaitable[object]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Open the adapter in a new process, make a call, and end the process without closing anything."""
        process = get_context("spawn").Process(target=call_and_die, args=(type(self), directory, call, args, kwargs))
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode == DIED

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"


def call_and_die(
    suite: type[Suite[T]],
    directory: Path,
    call: Callable[..., Awaitable[object]],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    async def opened() -> None:
        async with suite().opened(directory) as adapter:
            await call(adapter, *args, **kwargs)
            os._exit(DIED)

    asyncio.run(opened())
