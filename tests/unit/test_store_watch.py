"""Whether the last write to the store succeeded, and how the service finds out when writes succeed again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from adapters.history_observed import ObservedHistory
from adapters.turn_observer_group import TurnObserverGroup
from application.health import CheckReadiness
from application.ports.history import ConversationHistory, HistoryLost, HistoryUnavailable
from application.ports.memory_outbox import MemoryOutbox
from application.ports.turn_observer import Event, StoreCalled, StoreFailing, StoreRecovered
from application.store_watch import StoreWatch
from domain.errors import TurnNotFound
from tests.harness.script import FailingHistory, Observed, application, message, until

FULL = HistoryUnavailable(explanation="The disk is full.")
LOST = HistoryLost(explanation="The file was removed.")
WRITES = [
    *("begin", "save_progress", "finish", "finish_abandoned", "set_title", "clear", "probe_write"),
    *("claim", "claim_user", "release", "settle", "postpone", "give_up", "begin_forgetting", "end_forgetting"),
]
READS = ["find", "get", "latest", "messages", "page", "conversations", "forget_attempts", "counts"]


def reported(observer: Observed) -> list[type[Event]]:
    return [type(event) for event in observer.events]


@asynccontextmanager
async def watching(
    history: FailingHistory, failure: HistoryUnavailable | None = None, **options: Any
) -> AsyncIterator[tuple[StoreWatch, Observed]]:
    """Watch a store every few milliseconds, after a failed write if `failure` is given."""
    observer = Observed()
    watch = StoreWatch(history, observer, **{"interval": 0.005, **options})
    async with watch.opened():
        if failure:
            watch.observe(StoreCalled("begin", 0.1, failure))
        yield watch, observer


# Observing


@pytest.mark.parametrize("operation", [*WRITES, "check"])
async def test_a_failed_write_or_check_counts(operation: str) -> None:
    watch = StoreWatch(FailingHistory(), Observed())
    watch.observe(StoreCalled(operation, 0.1, FULL))

    assert watch.failure is not None
    assert watch.failure.explanation == "The disk is full."


@pytest.mark.parametrize("operation", READS)
async def test_a_failed_read_does_not_count(operation: str) -> None:
    watch = StoreWatch(FailingHistory(), Observed())
    watch.observe(StoreCalled(operation, 0.1, FULL))

    assert watch.failure is None


async def test_an_error_that_is_not_the_stores_does_not_count() -> None:
    watch = StoreWatch(FailingHistory(), Observed())
    watch.observe(StoreCalled("finish", 0.1, ValueError("a damaged row")))
    watch.observe(StoreCalled("get", 0.1, TurnNotFound()))

    assert watch.failure is None


@pytest.mark.parametrize("operation", [*WRITES, *READS, "check"])
async def test_only_a_call_that_always_writes_proves_that_writes_succeed(operation: str) -> None:
    watch = StoreWatch(FailingHistory(), Observed())
    watch.observe(StoreCalled("begin", 0.1, FULL))
    watch.observe(StoreCalled(operation, 0.1, None))

    assert (watch.failure is None) == (operation in ("begin", "finish", "probe_write"))


def test_every_method_of_the_store_is_covered_by_these_tests() -> None:
    methods = ConversationHistory.__abstractmethods__ | MemoryOutbox.__abstractmethods__
    assert {"check", *WRITES, *READS} == methods


async def test_the_failure_kept_does_not_refer_to_the_turn() -> None:
    watch = StoreWatch(FailingHistory(), Observed())
    try:
        raise HistoryUnavailable(explanation="The disk is full.") from ValueError("text")
    except HistoryUnavailable as error:
        watch.observe(StoreCalled("begin", 0.1, error))

    assert watch.failure is not None
    assert (watch.failure.__traceback__, watch.failure.__cause__) == (None, None)


# Probing


async def test_a_working_store_is_checked_without_writing() -> None:
    history = FailingHistory()
    async with watching(history) as (watch, observer):
        await until(lambda: len(history.calls) >= 3)
        assert watch.failure is None

    assert set(history.calls) == {"check"}
    assert observer.events == []


async def test_a_store_that_fails_its_check_is_found_without_traffic() -> None:
    history = FailingHistory({"check": [LOST], "probe_write": [LOST] * 1_000_000})
    async with watching(history) as (watch, _):
        await until(lambda: isinstance(watch.failure, HistoryLost))


async def test_a_failing_store_is_probed_until_a_write_succeeds() -> None:
    history = FailingHistory({"probe_write": [FULL, FULL]})
    async with watching(history, FULL) as (watch, observer):
        await until(lambda: watch.failure is None)

    assert history.calls[:3] == ["probe_write"] * 3
    assert reported(observer) == [StoreFailing, StoreRecovered]


@pytest.mark.parametrize("error", [FULL, RuntimeError("a bug")])
async def test_the_watch_goes_on_after_any_error(error: Exception) -> None:
    history = FailingHistory({"check": [error], "probe_write": [error] * 2})
    async with watching(history) as (watch, observer):
        await until(lambda: StoreRecovered in reported(observer))
        assert watch.failure is None


async def test_a_store_that_does_not_respond_counts_as_failing() -> None:
    class Hanging(FailingHistory):
        async def check(self) -> None:
            await anyio.sleep_forever()

        probe_write = check

    async with watching(Hanging(), timeout=0.01) as (watch, _):
        await until(lambda: watch.failure is not None)
        assert watch.failure is not None
        assert watch.failure.explanation == "The store did not respond within 0.01 seconds."


async def test_a_store_that_failed_before_the_watch_began_is_probed_at_once() -> None:
    history = FailingHistory()
    watch = StoreWatch(history, Observed(), interval=3_600)
    watch.note_failure(FULL)
    async with watch.opened():
        assert watch.failure is None


# Reporting


async def test_a_failure_is_reported_at_once_and_then_at_intervals() -> None:
    history = FailingHistory({"probe_write": [FULL] * 1_000_000})
    async with watching(history, FULL, report_interval=3_600) as (_, observer):
        assert reported(observer) == [StoreFailing]
        await until(lambda: len(history.calls) >= 5)
        assert reported(observer) == [StoreFailing]

    history = FailingHistory({"probe_write": [FULL] * 1_000_000})
    async with watching(history, FULL, report_interval=0.02) as (_, observer):
        await until(lambda: len(observer.events) == 3)

    assert set(reported(observer)) == {StoreFailing}


async def test_a_lost_store_is_reported_once_even_during_another_failure() -> None:
    history = FailingHistory({"probe_write": [FULL, *[LOST] * 1_000_000]})
    async with watching(history, FULL, report_interval=0) as (_, observer):
        await until(lambda: len(history.calls) >= 8)

    kinds = [type(event.error) for event in observer.events if isinstance(event, StoreFailing)]
    assert kinds == [HistoryUnavailable, HistoryUnavailable, HistoryLost]


# Readiness


async def test_the_service_is_not_ready_from_a_failed_write_to_the_next_that_succeeds() -> None:
    async with application() as app:
        watch = StoreWatch(app.history, app.observer)
        ready = CheckReadiness(app.history, app.runner, watch, None)
        observed = ObservedHistory(app.history, TurnObserverGroup([watch]))
        answers = [await ready()]
        watch.note_failure(FULL)
        answers.append(await ready())
        await app.complete(message())  # not observed
        answers.append(await ready())
        await observed.probe_write()
        answers.append(await ready())

    assert answers == [True, False, False, True]
