"""Limits of LiveTurnsInProcess on the age and size of event logs."""

import asyncio
import weakref

import pytest

from adapters.event_logs import MAX_BATCH, RunningLog
from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.live_turns import DELETED, Batch
from domain.errors import StreamExpired
from tests.contract.live_turns import ANN, LONG, STOP, begin, read_to_end


class WeakText(str):
    """A text that can be referenced weakly."""


async def test_a_finished_log_expires_after_its_retention() -> None:
    live = LiveTurnsInProcess(retention=0)
    running = await begin(live)
    await running.log.close(STOP)
    await asyncio.sleep(0.01)

    with pytest.raises(StreamExpired):
        await live.join(running.id, ANN)


async def test_a_running_log_never_expires() -> None:
    live = LiveTurnsInProcess(retention=0)
    running = await begin(live)
    await asyncio.sleep(0.01)

    async with await live.join(running.id, ANN):
        pass


async def test_a_log_with_too_many_events_keeps_its_readers_but_rejects_new_ones() -> None:
    live = LiveTurnsInProcess(max_events=3)
    running = await begin(live)
    async with await live.join(running.id, ANN) as reader:
        running.log.append(["a", "b", "c"])
        async with await live.join(running.id, ANN):
            pass
        running.log.append(["d"])

        with pytest.raises(StreamExpired):
            await live.join(running.id, ANN)
        await running.log.close(STOP)
        assert await read_to_end(reader) == (["a", "b", "c", "d"], STOP)


async def test_a_long_log_is_read_in_several_batches() -> None:
    live = LiveTurnsInProcess()
    running = await begin(live)
    deltas = [str(number) for number in range(2 * MAX_BATCH + 1)]
    running.log.append(deltas)
    await running.log.close(STOP)
    async with await live.join(running.id, ANN) as reader:
        assert Batch(1, deltas[:MAX_BATCH], False, None) == await reader.next(LONG)
        assert Batch(1 + MAX_BATCH, deltas[MAX_BATCH:-1], False, None) == await reader.next(LONG)
        assert Batch(1 + 2 * MAX_BATCH, deltas[-1:], False, STOP) == await reader.next(LONG)


async def test_a_log_with_too_much_text_keeps_its_readers_but_rejects_new_ones() -> None:
    live = LiveTurnsInProcess(max_bytes=1000)
    running = await begin(live)
    async with await live.join(running.id, ANN) as reader:
        running.log.append(["x" * 1001])

        with pytest.raises(StreamExpired):
            await live.join(running.id, ANN)
        assert Batch(1, ["x" * 1001], False, None) == await reader.next(LONG)


async def test_the_text_of_a_discarded_log_is_not_kept() -> None:
    live = LiveTurnsInProcess(max_retained_bytes=0)
    running, text = await begin(live), WeakText("secret")
    text_is_kept = weakref.ref(text)
    async with await live.join(running.id, ANN):
        await live.discard(ANN, None)
        running.log.append([text])
        del text

        assert text_is_kept() is None


async def test_a_reader_of_a_log_that_is_not_kept_any_more_gets_no_text_after_a_discard() -> None:
    live = LiveTurnsInProcess(max_retained_bytes=0)
    running = await begin(live)
    async with await live.join(running.id, ANN) as reader:
        running.log.append(["secret"])
        await running.log.close(STOP)

        await live.discard(ANN, None)

        assert Batch(2, (), False, DELETED) == await reader.next(LONG)


async def test_a_log_that_is_not_kept_any_more_leaves_the_memory_with_its_reader() -> None:
    live = LiveTurnsInProcess(max_retained_bytes=0)
    running, text = await begin(live), WeakText("secret")
    text_is_kept = weakref.ref(text)
    async with await live.join(running.id, ANN) as reader:
        running.log.append([text])
        await running.log.close(STOP)
        del text, running
        assert text_is_kept() is not None
    del reader

    assert text_is_kept() is None


async def test_the_oldest_finished_logs_are_dropped_when_their_total_size_exceeds_the_limit() -> None:
    live = LiveTurnsInProcess(max_retained_bytes=6000)
    finished = []
    for _ in range(5):
        finished.append(await begin(live))
        finished[-1].log.append(["x" * 1000])
        await finished[-1].log.close(STOP)

    kept = []
    for running in finished:
        try:
            await live.join(running.id, ANN)
        except StreamExpired:
            continue
        kept.append(running.id)

    assert [running.id for running in finished[-2:]] == kept


async def test_readers_of_a_log_that_is_held_get_nothing_until_it_is_released() -> None:
    live = LiveTurnsInProcess()
    running = await begin(live)
    log = running.log
    assert isinstance(log, RunningLog)
    log.append(["a"])
    async with await live.join(running.id, ANN) as reader:
        log.hold()
        assert await reader.next(0.01) is None
        log.accept()
        log.append(["b"])
        await log.close(STOP)
        assert await reader.next(0.01) is None
        reading = asyncio.create_task(reader.next(LONG))
        await asyncio.sleep(0)
        log.release()

        assert Batch(1, ["a", "b"], True, STOP) == await reading


@pytest.mark.parametrize("ended", [True, False])
async def test_readers_of_a_log_that_was_discarded_while_it_was_held_get_its_end(ended: bool) -> None:
    live = LiveTurnsInProcess()
    running = await begin(live)
    log = running.log
    assert isinstance(log, RunningLog)
    async with await live.join(running.id, ANN) as reader:
        log.append(["secret"])
        if ended:
            await log.close(STOP)
        log.hold()
        await live.discard(ANN, None)
        log.release()
        if not ended:
            assert await reader.next(0.01) is None
            await log.close(STOP)

        assert Batch(2, (), False, DELETED) == await reader.next(LONG)
