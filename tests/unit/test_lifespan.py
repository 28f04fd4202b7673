"""The lifespan opens the container's parts in order and closes them in reverse."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
from dependency_injector import providers

from domain.errors import Unusable
from entrypoints.container import Container
from entrypoints.lifespan import lifespan
from entrypoints.settings import Settings

NO_MODEL = "http://127.0.0.1:9/v1"


class Parts:
    """Context managers that record when they are opened and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @asynccontextmanager
    async def part(self, name: str, unusable: str | None = None) -> AsyncIterator[None]:
        if unusable:
            raise Unusable(unusable)
        self.events.append(f"{name} opened")
        try:
            yield
        finally:
            self.events.append(f"{name} closed")


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


@pytest.mark.parametrize(
    ("chosen", "unused"),
    [
        ({}, [0, 2]),
        ({"history_backend": "sql"}, [2]),
        ({"memory_backend": "sql"}, [2]),
        ({"memory_backend": "in_memory"}, [0, 2]),
        ({"memory_backend": "mem0_platform", "mem0_api_key": "m0-key"}, [0]),
    ],
)
def test_parts_that_are_not_configured_are_empty(chosen: dict[str, Any], unused: list[int]) -> None:
    parts = Container(settings=settings(**chosen)).parts()

    assert [index for index, part in enumerate(parts) if isinstance(part, nullcontext)] == unused


def test_every_part_is_an_async_context_manager() -> None:
    parts = Container(settings=settings(history_backend="sql", memory_backend="sql")).parts()

    assert [part for part in parts if not hasattr(part, "__aenter__") or not hasattr(part, "__aexit__")] == []
