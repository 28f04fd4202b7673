"""The lifespan opens the container's parts in order and closes them in reverse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from dependency_injector import providers
from structlog.testing import capture_logs

from adapters.history_in_memory import HistoryInMemory
from domain.errors import TemporarilyUnusable, Unusable
from domain.retry import RetryPolicy
from entrypoints.container import Container
from entrypoints.lifespan import Lifespan
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown
from tests.harness.script import until

NO_MODEL = "http://127.0.0.1:9/v1"


class Parts:
    """Context managers that record when they are opened and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def temporarily_unusable(self, name: str, *, attempts: int, then: str | None = None) -> "TemporarilyUnusablePart":
        return TemporarilyUnusablePart(self, name, attempts, then)

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


class TemporarilyUnusablePart(AbstractAsyncContextManager[None]):
    """Cannot be opened at the first `attempts`; afterwards it can, or is unusable if `then` gives a reason."""

    def __init__(self, parts: Parts, name: str, attempts: int, then: str | None) -> None:
        self._parts, self._name, self._attempts, self._then = parts, name, attempts, then

    async def __aenter__(self) -> None:
        self._attempts -= 1
        if self._attempts >= 0:
            self._parts.events.append(f"{self._name} tried")
            raise TemporarilyUnusable(f"{self._name} is locked.")
        if self._then:
            raise Unusable(self._then)
        self._parts.events.append(f"{self._name} opened")

    async def __aexit__(self, *_: object) -> None:
        self._parts.events.append(f"{self._name} closed")


def container_with(*parts: Any) -> Container:
    container = Container(settings=settings())
    container.parts.override(providers.Object(parts))
    return container


def settings(**chosen: Any) -> Settings:
    backends = {
        "history_backend": "in_memory",
        "memory_backend": "none",
        "openai_base_url": NO_MODEL,
        "log_pseudonym_key": "without-a-key-a-file-would-be-made",
    }
    return Settings(_env_file=None, **{**backends, **chosen})


async def test_parts_are_opened_in_order_and_closed_in_reverse() -> None:
    parts = Parts()
    async with Lifespan(container_with(parts.part("database"), parts.part("turns"))):
        parts.events.append("serving")

    assert parts.events == ["database opened", "turns opened", "serving", "turns closed", "database closed"]


async def test_an_unusable_part_closes_those_opened_before_it() -> None:
    parts = Parts()
    container = container_with(parts.part("database"), parts.part("memory", unusable="No such store."))
    with pytest.raises(Unusable, match=r"^No such store\.$"):
        async with Lifespan(container):
            parts.events.append("serving")

    assert parts.events == ["database opened", "database closed"]


async def test_a_part_that_is_not_a_context_manager_has_nothing_to_open() -> None:
    parts = Parts()
    async with Lifespan(container_with(None, object(), parts.part("database"))):
        pass

    assert parts.events == ["database opened", "database closed"]


SOON = RetryPolicy(first_delay=timedelta(milliseconds=1), max_delay=timedelta(milliseconds=2))
NEVER = RetryPolicy(first_delay=timedelta(hours=1), max_delay=timedelta(hours=1))


async def test_a_temporarily_unusable_part_is_tried_again_and_then_the_rest_is_opened() -> None:
    parts = Parts()
    waited_for = parts.temporarily_unusable("database", attempts=3)
    container = container_with(parts.part("model"), waited_for, parts.part("turns"))
    lifespan = Lifespan(container, retry_policy=SOON)
    async with lifespan:
        assert lifespan.waiting
        await until(lambda: not lifespan.waiting)
        parts.events.append("serving")

    opening = ["model opened", *["database tried"] * 3, "database opened", "turns opened"]
    assert parts.events == [*opening, "serving", "turns closed", "database closed", "model closed"]


async def test_the_reason_for_waiting_is_the_failure_of_the_store() -> None:
    container = container_with(Parts().temporarily_unusable("The database", attempts=1))
    async with Lifespan(container, retry_policy=NEVER):
        failure = container.store_watch().failure
        assert failure is not None
        assert failure.explanation == "The database is locked."


async def test_a_stop_while_waiting_closes_the_parts_that_are_open() -> None:
    parts = Parts()
    container = container_with(parts.part("model"), parts.temporarily_unusable("database", attempts=1))
    async with Lifespan(container, retry_policy=NEVER):
        parts.events.append("serving")

    assert parts.events == ["model opened", "database tried", "serving", "model closed"]


@pytest.mark.parametrize("reason", ["It is damaged.", None])
async def test_a_part_that_turns_out_to_be_unusable_stops_the_service(reason: str | None) -> None:
    parts, stops = Parts(), list[str]()
    part = parts.temporarily_unusable("database", attempts=1, then=reason) if reason else OnceLocked()
    container = container_with(parts.part("model"), part)
    lifespan = Lifespan(container, retry_policy=SOON, on_failure=lambda: stops.append("stopped"))
    with capture_logs() as lines:
        async with lifespan:
            await until(lambda: bool(stops))
            assert lifespan.waiting
            assert parts.events[-1] == "model closed"

    assert [line["log_level"] for line in lines if line["event"] == "cannot start"] == ["error"]
    assert str(lifespan.failure) == (reason or "a bug")
    assert stops == ["stopped"]


class OnceLocked(AbstractAsyncContextManager[None]):
    """Is temporarily unusable once, and fails unexpectedly then."""

    def __init__(self) -> None:
        self._errors: list[Exception] = [TemporarilyUnusable("It is locked."), RuntimeError("a bug")]

    async def __aenter__(self) -> None:
        raise self._errors.pop(0)

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("it was never opened")


async def test_a_start_that_is_cancelled_closes_the_parts_that_are_open() -> None:
    parts, reached = Parts(), anyio.Event()

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        reached.set()
        await anyio.sleep_forever()
        yield

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Lifespan(container_with(parts.part("model"), hanging())).__aenter__)
        await reached.wait()
        tasks.cancel_scope.cancel()

    assert parts.events == ["model opened", "model closed"]


async def test_parts_with_task_groups_can_be_opened_and_closed_by_different_tasks() -> None:
    @asynccontextmanager
    async def task_group() -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield
            tasks.cancel_scope.cancel()

    lifespan = Lifespan(container_with(task_group(), task_group()))
    await asyncio.create_task(lifespan.__aenter__())
    await asyncio.create_task(lifespan.__aexit__(None, None, None))


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
    _pseudonyms, *adapters, _outbox_worker, _turn_runner, _store_watch = Container(settings=settings(**chosen)).parts()

    assert opened == [type(part).__name__ for part in adapters if isinstance(part, AbstractAsyncContextManager)]


def test_the_outbox_worker_the_turn_runner_and_the_store_watch_are_opened_last() -> None:
    *_, outbox_worker, turn_runner, store_watch = Container(settings=settings()).parts()

    assert ["OutboxWorker.opened", "TurnRunner.opened", "Watch.opened"] == [
        part.gen.__qualname__ for part in (outbox_worker, turn_runner, store_watch)
    ]


async def test_a_part_that_does_not_close_in_time_is_cancelled_and_the_others_are_closed() -> None:
    parts = Parts()
    container = container_with(parts.part("database"), parts.part("memory", hangs=True), parts.part("turns"))
    container.shutdown.override(providers.Object(Shutdown(0, margin=0.5)))
    async with Lifespan(container):
        pass

    assert parts.events[-3:] == ["turns closed", "memory cancelled", "database closed"]
    assert container.shutdown().hung == ["Parts.part"]


async def test_an_adapter_that_replaces_another_is_opened() -> None:
    parts = Parts()
    container = Container(settings=settings())
    container.store.override(providers.Object(OpenedHistory(parts)))
    async with Lifespan(container):
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


async def test_a_part_that_is_cancelled_while_it_is_opened_ends_the_start() -> None:
    class Cancelled(AbstractAsyncContextManager[None]):
        async def __aenter__(self) -> None:
            raise asyncio.CancelledError

        async def __aexit__(self, *_: object) -> None: ...

    parts = Parts()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10), Lifespan(container_with(parts.part("database"), Cancelled())):
            pytest.fail("it started")
    assert parts.events == ["database opened", "database closed"]
