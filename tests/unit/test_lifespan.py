"""The lifespan opens the container's parts in order and closes them in reverse."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from dependency_injector import providers

from adapters.history_in_memory import HistoryInMemory
from domain.errors import Unusable
from entrypoints.container import Container
from entrypoints.lifespan import lifespan
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown

NO_MODEL = "http://127.0.0.1:9/v1"


class Parts:
    """Context managers that record when they are opened and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @asynccontextmanager
    async def part(self, name: str, unusable: str | None = None, *, hangs: bool = False) -> AsyncIterator[None]:
        if unusable:
            raise Unusable(unusable)
        self.events.append(f"{name} opened")
        try:
            yield
        finally:
            try:
                await anyio.sleep(3600 if hangs else 0)
                self.events.append(f"{name} closed")
            except anyio.get_cancelled_exc_class():
                self.events.append(f"{name} cancelled")
                raise


def container_with(*parts: Any) -> Container:
    container = Container(settings=settings())
    container.parts.override(providers.Object(parts))
    return container


def settings(**chosen: Any) -> Settings:
    backends = {"history_backend": "in_memory", "memory_backend": "none", "openai_base_url": NO_MODEL}
    return Settings(_env_file=None, **{**backends, **chosen})


async def test_parts_are_opened_in_order_and_closed_in_reverse() -> None:
    parts = Parts()
    async with lifespan(container_with(parts.part("database"), parts.part("turns"))):
        parts.events.append("serving")

    assert parts.events == ["database opened", "turns opened", "serving", "turns closed", "database closed"]


async def test_an_unusable_part_closes_those_opened_before_it() -> None:
    parts = Parts()
    container = container_with(parts.part("database"), parts.part("memory", unusable="No such store."))
    with pytest.raises(Unusable, match=r"^No such store\.$"):
        async with lifespan(container):
            parts.events.append("serving")

    assert parts.events == ["database opened", "database closed"]


async def test_a_part_that_is_not_a_context_manager_has_nothing_to_open() -> None:
    parts = Parts()
    async with lifespan(container_with(None, object(), parts.part("database"))):
        pass

    assert parts.events == ["database opened", "database closed"]


@pytest.mark.parametrize(
    ("chosen", "opened"),
    [
        ({}, ["LLMOpenAI"]),
        ({"history_backend": "sql"}, ["SQLiteDatabase", "LLMOpenAI"]),
        ({"memory_backend": "sql"}, ["SQLiteDatabase", "LLMOpenAI"]),
        ({"memory_backend": "in_memory"}, ["LLMOpenAI"]),
        ({"memory_backend": "mem0_platform", "mem0_api_key": "m0-key"}, ["LLMOpenAI", "MemoryMem0Platform"]),
    ],
)
def test_only_configured_adapters_are_opened(chosen: dict[str, Any], opened: list[str]) -> None:
    *adapters, _outbox_worker, _turn_runner, _store_watch = Container(settings=settings(**chosen)).parts()

    assert opened == [type(part).__name__ for part in adapters if isinstance(part, AbstractAsyncContextManager)]


def test_the_outbox_worker_the_turn_runner_and_the_store_watch_are_opened_last() -> None:
    *_, outbox_worker, turn_runner, store_watch = Container(settings=settings()).parts()

    assert ["OutboxWorker.opened", "TurnRunner.opened", "StoreWatch.opened"] == [
        part.gen.__qualname__ for part in (outbox_worker, turn_runner, store_watch)
    ]


async def test_a_part_that_does_not_close_in_time_is_cancelled_and_the_others_are_closed() -> None:
    parts = Parts()
    container = container_with(parts.part("database"), parts.part("memory", hangs=True), parts.part("turns"))
    container.shutdown.override(providers.Object(Shutdown(0, margin=0.5)))
    async with lifespan(container):
        pass

    assert parts.events[-3:] == ["turns closed", "memory cancelled", "database closed"]
    assert container.shutdown().hung == ["Parts.part"]


async def test_an_adapter_that_replaces_another_is_opened() -> None:
    parts = Parts()
    container = Container(settings=settings())
    container.store.override(providers.Object(OpenedHistory(parts)))
    async with lifespan(container):
        parts.events.append("serving")

    assert parts.events == ["history opened", "serving", "history closed"]


class OpenedHistory(HistoryInMemory):
    """A history that has to be opened."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._parts = parts

    async def __aenter__(self) -> None:
        self._parts.events.append("history opened")

    async def __aexit__(self, *exc_info: Any) -> None:
        self._parts.events.append("history closed")
