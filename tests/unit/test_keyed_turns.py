"""Messages that are sent again with the same idempotency key."""

from collections.abc import Coroutine, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import anyio
import pytest

from adapters.event_logs import RunningLog
from adapters.history_in_memory import HistoryInMemory
from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.conversation_leases import ConversationLeases, Lease
from application.ports.history import HistoryUnavailable, TurnBegin, TurnEnd
from application.ports.live_turns import Batch, End
from application.ports.llm import LLMUnreachable
from application.turns.handle import TurnHandle, stored_events
from application.turns.keyed_turns import KeyedTurns
from application.turns.new_message import WhenBusy
from application.turns.superseding import Superseding
from domain.conversation import ConversationId, Exchange, Turn, TurnId, TurnStatus, Usage, UserId
from domain.errors import (
    Cancelled,
    Failure,
    IdempotencyKeyReused,
    MessageTooLong,
    StreamExpired,
    TurnInProgress,
    WorkerLost,
)
from domain.idempotency import IdempotencyKey
from tests.harness.fakes import ScriptedReply
from tests.harness.script import ANN, NO_DELAYS, NOW, FailingHistory, Harness, application, message, read, until

T = TypeVar("T")

HANGS = ScriptedReply(deltas=("Hel", "lo"), hangs=True)
SILENT = ScriptedReply(deltas=(), hangs=True)
REFUSED = ScriptedReply(refusal=LLMUnreachable())
WHOLE = ["Hello", ", ", "world", "!"]
KEYED = message(key="k")
NAMED = IdempotencyKey.of("k", KEYED.user_id, KEYED.conversation_id, KEYED.text, use_memory=True)


async def turns_of(app: Harness) -> Sequence[Turn]:
    return (await app.history.page(ANN, None, 50, None)).items


async def begun_elsewhere(app: Harness, *, lease: timedelta = timedelta(hours=1)) -> Turn:
    """Begin the turn of the key as another worker would: it has no event log here."""
    turn = Turn(TurnId("elsewhere"), ANN, KEYED.conversation_id, NOW, KEYED.text)
    return await app.history.begin(TurnBegin(turn, lease, NAMED))


# Completed and interrupted turns


async def test_a_completed_turn_is_replayed_with_its_deltas_and_without_the_model() -> None:
    async with application() as app:
        first = await app.send(KEYED)
        ended = await read(first)
        again = await app.send(KEYED)

        assert (ended.deltas, ended.end) == (WHOLE, (await read(again)).end)
        assert ended.deltas == (await read(await app.send(KEYED))).deltas
        assert (first.turn.id, False, True) == (again.turn.id, first.is_repeated, again.is_repeated)
        assert len(app.llm.asked) == len(await turns_of(app)) == 1


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
async def test_a_completed_turn_is_replayed_as_one_delta_if_its_log_is_gone(finish_reason: str) -> None:
    live_turns = LiveTurnsInProcess(max_retained_bytes=0)
    async with application(ScriptedReply(finish_reason=finish_reason), live_turns=live_turns) as app:
        ended = await app.complete(KEYED)
        again = await read(await app.send(KEYED))

        assert (["Hello, world!"], True, ended.end) == (again.deltas, again.accepted, again.end)


async def test_the_deltas_after_the_last_event_are_replayed() -> None:
    async with application() as app:
        await app.complete(KEYED)
        replayed = [await read(await app.send(message(key="k", after=after))) for after in range(7)]

        assert [WHOLE[after:] for after in range(7)] == [ended.deltas for ended in replayed]
        batch = await (await app.send(message(key="k", after=2))).next(0)
        assert batch is not None
        assert batch.first == 3


async def test_a_client_cannot_continue_after_events_that_are_no_longer_kept() -> None:
    async with application(live_turns=LiveTurnsInProcess(max_retained_bytes=0)) as app:
        await app.complete(KEYED)

        with pytest.raises(StreamExpired):
            await app.send(message(key="k", after=2))


@pytest.mark.parametrize("retained", [64_000_000, 0])
@pytest.mark.parametrize(("script", "text"), [(HANGS, "Hello"), (SILENT, "")])
async def test_a_stopped_turn_is_replayed_with_its_error(script: ScriptedReply, text: str, retained: int) -> None:
    async with application(script, live_turns=LiveTurnsInProcess(max_retained_bytes=retained)) as app:
        first = await app.send(KEYED)
        await until(lambda: app.llm.open == 1)
        if text:
            await app.until_replied(first, 2)
        await app.live_turns.stop(first.turn.id, None)
        ended, again = await read(first), await read(await app.send(KEYED))

        assert ("cancelled", text) == (again.code, "".join(again.deltas))
        assert (ended.accepted, ended.end) == (again.accepted, again.end)
        assert len(app.llm.asked) == 1


async def test_a_turn_whose_end_was_stored_although_the_store_failed_is_replayed_as_stored() -> None:
    class Ambiguous(HistoryInMemory):
        """Stores the end, and reports a failure."""

        async def finish(self, end: TurnEnd) -> Turn | None:
            if (await self.get(end.turn.id, None)).status is TurnStatus.IN_PROGRESS:
                await super().finish(end)
            raise HistoryUnavailable

    async with application(history=Ambiguous(), store_delays=NO_DELAYS) as app:
        assert "history_write_failed" == (await app.complete(KEYED)).code
        again = await read(await app.send(KEYED))

        assert (["Hello, world!"], "stop") == (again.deltas, again.end.finish_reason)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn(TurnId("t"), ANN, KEYED.conversation_id, NOW, "Hi").completed("", "stop"), ([], True)),
        (Turn(TurnId("t"), ANN, KEYED.conversation_id, NOW, "Hi").ended_by(Cancelled()), ([], False)),
        (Turn(TurnId("t"), ANN, KEYED.conversation_id, NOW, "Hi").ended_by(Cancelled(), "", Usage(1, 0)), ([], True)),
        (Turn(TurnId("t"), ANN, KEYED.conversation_id, NOW, "Hi").ended_by(WorkerLost(), "He"), (["He"], True)),
    ],
)
def test_stored_events_tell_whether_the_model_had_answered(turn: Turn, expected: tuple[list[str], bool]) -> None:
    events = stored_events(turn)
    assert expected == (events.deltas, events.accepted)


# Running turns


async def test_a_running_turn_is_followed_from_its_first_event() -> None:
    async with application(HANGS) as app:
        first = await app.send(KEYED)
        await app.until_replied(first, 2)
        again = await app.send(KEYED)
        batch = await again.next(1)
        assert batch is not None
        assert (1, ["Hel", "lo"], None) == (batch.first, batch.deltas, batch.end)
        await app.live_turns.stop(first.turn.id, None)

        assert (await read(first)).end == (await read(again)).end
        assert again.is_repeated
        assert len(app.llm.asked) == 1


async def test_a_running_turn_is_followed_after_the_last_event() -> None:
    async with application(HANGS) as app:
        await app.until_replied(await app.send(KEYED), 2)
        batch = await (await app.send(message(key="k", after=1))).next(1)

        assert batch is not None
        assert (2, ["lo"]) == (batch.first, batch.deltas)


async def test_a_retry_neither_waits_for_its_own_turn_nor_is_subject_to_limits() -> None:
    async with application(HANGS, max_message_chars=5) as app:
        await app.send(KEYED)
        with anyio.fail_after(5):
            for _ in range(10):
                assert (await app.send(message(key="k", when_busy=WhenBusy.REJECT))).is_repeated
        with pytest.raises(MessageTooLong):
            await app.send(message("too long", key="other"))


async def test_of_concurrent_requests_with_one_key_one_runs_and_all_get_its_reply() -> None:
    async with application(ScriptedReply(pause=0.01)) as app:
        received: list[tuple[TurnId, bool, Sequence[str]]] = []

        async def send() -> None:
            handle = await app.send(KEYED)
            received.append((handle.turn.id, handle.is_repeated, (await read(handle)).deltas))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(send)

        assert len(app.llm.asked) == len(await turns_of(app)) == 1
        assert [(received[0][0], WHOLE)] * 20 == [(id, deltas) for id, _, deltas in received]
        assert [False] + [True] * 19 == sorted(repeated for _, repeated, _ in received)


async def test_concurrent_requests_with_one_key_do_not_queue_behind_their_own_turn() -> None:
    class SlowBegin(HistoryInMemory):
        async def begin(self, begin: TurnBegin) -> Turn:
            await anyio.sleep(0.02)
            return await super().begin(begin)

    async with application(HANGS, history=SlowBegin()) as app:
        started: list[Sequence[str]] = []

        async def send() -> None:
            async with await app.send(message(key="k", keep_running=True)) as handle:
                batch = await handle.next(10)
                while batch is not None and not batch.deltas:
                    batch = await handle.next(10)
                started.append(batch.deltas if batch else ())

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(send)

        assert (20, 1) == (len(started), len(app.llm.asked))


async def test_concurrent_requests_wait_for_the_conversation_together() -> None:
    async with application(HANGS, queue_timeout=0.1) as app:
        await app.send(message("another"))
        rejected = []

        async def send() -> None:
            try:
                await app.send(KEYED)
            except TurnInProgress as error:
                rejected.append(error)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(send)

        assert (100, 1) == (len(rejected), len(await turns_of(app)))


async def test_a_request_whose_predecessor_was_cancelled_in_the_queue_takes_its_place() -> None:
    async with application(HANGS, ScriptedReply()) as app, anyio.create_task_group() as tasks:
        first, handles = await app.send(message("another")), list[TurnHandle]()
        await app.until_replied(first)

        async def send() -> None:
            handles.append(await app.send(KEYED))

        with anyio.move_on_after(0.02):
            await app.send(KEYED)
        tasks.start_soon(send)
        await anyio.sleep(0.02)
        await app.live_turns.stop(first.turn.id, None)
        await until(lambda: bool(handles))

        assert WHOLE == (await read(handles[0])).deltas


async def test_nothing_is_kept_in_memory_of_keys_that_are_not_being_looked_up() -> None:
    async with application() as app:
        for n in range(10):
            await app.complete(message(key=str(n)))

        assert {} == app.send.keyed_turns._locks


# Failed turns


async def test_a_failed_turn_is_replaced_by_a_new_one() -> None:
    async with application(REFUSED, ScriptedReply()) as app:
        failed = await app.send(KEYED)
        assert "upstream_unreachable" == (await read(failed)).code
        again = await app.send(KEYED)

        assert (WHOLE, False) == ((await read(again)).deltas, again.is_repeated)
        assert again.turn.id != failed.turn.id
        assert [again.turn.id] == [turn.id for turn in await turns_of(app)]


async def test_a_rejected_request_does_not_use_its_key() -> None:
    async with application(HANGS, ScriptedReply()) as app:
        running = await app.send(message("another"))
        await app.until_replied(running)
        with pytest.raises(TurnInProgress):
            await app.send(message(key="k", when_busy=WhenBusy.REJECT))
        await app.live_turns.stop(running.turn.id, None)
        await app.until_idle()

        other = message("something else", key="k")
        assert WHOLE == (await app.complete(other)).deltas


async def test_a_request_that_could_not_be_stored_can_be_repeated() -> None:
    async with application(history=FailingHistory({"begin": [HistoryUnavailable()]})) as app:
        with pytest.raises(HistoryUnavailable):
            await app.send(KEYED)

        assert WHOLE == (await app.complete(KEYED)).deltas


class FailsOnce(HistoryInMemory):
    """Fails once, before or after the effect of a call: at the n-th such point of all calls that a turn makes."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.points_left = n

    async def _around(self, call: Coroutine[Any, Any, T]) -> T:
        with closing(call):  # it is not awaited if the point before it fails
            self._pass()
            result = await call
        self._pass()
        return result

    def _pass(self) -> None:
        self.points_left -= 1
        if self.points_left == 0:
            raise HistoryUnavailable

    async def begin(self, begin: TurnBegin) -> Turn:
        return await self._around(super().begin(begin))

    async def find(self, key: IdempotencyKey) -> Turn | None:
        return await self._around(super().find(key))

    async def finish(self, end: TurnEnd) -> Turn | None:
        return await self._around(super().finish(end))

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        return await self._around(super().latest(user_id, conversation_id, limit))


async def test_a_client_that_repeats_its_request_gets_one_turn_wherever_the_store_fails() -> None:
    for n in range(1, 50):
        history = FailsOnce(n)
        lease = timedelta(seconds=0.02)
        async with application(history=history, store_delays=NO_DELAYS, lease=lease, save_interval=0.005) as app:
            ended = None
            for _ in range(3):
                with suppress(HistoryUnavailable):
                    ended = await app.complete(KEYED)
                    if ended.end.failure is None:
                        break

            assert ended is not None
            assert ("Hello, world!", None) == ("".join(ended.deltas), ended.code)
            assert ["Hello, world!"] == [turn.reply for turn in await turns_of(app)]
            assert len(app.llm.asked) == 1
        if history.points_left > 0:
            break
    assert n > 8


# Other requests


@pytest.mark.parametrize(
    "other",
    [
        message("Hello!", key="k"),
        message(key="k", conversation=ConversationId("work")),
        message(key="k", use_memory=False),
    ],
)
async def test_a_key_cannot_be_used_for_another_request(other: object) -> None:
    async with application() as app:
        await app.complete(KEYED)

        with pytest.raises(IdempotencyKeyReused):
            await app.send(other)  # type: ignore[arg-type]
        assert len(await turns_of(app)) == 1
        assert ["idempotency_key_reused"] == [error.code for error in app.observer.rejections]


async def test_how_the_reply_is_delivered_is_not_part_of_the_request() -> None:
    async with application() as app:
        await app.complete(KEYED)

        assert (await app.send(message(key="k", keep_running=True, when_busy=WhenBusy.REJECT))).is_repeated


async def test_each_user_has_keys_of_their_own() -> None:
    async with application() as app:
        await app.complete(KEYED)

        assert not (await app.send(message(key="k", user=UserId("ben")))).is_repeated


# Turns of other workers


async def test_the_turn_of_a_dead_worker_is_replaced_after_the_end_of_its_lease() -> None:
    lease = timedelta(seconds=0.05)
    async with application(lease=lease, save_interval=0.01) as app:
        lost = await begun_elsewhere(app, lease=lease)
        with anyio.fail_after(10):
            handle = await app.send(KEYED)

        assert (WHOLE, False) == ((await read(handle)).deltas, handle.is_repeated)
        assert lost.id not in [turn.id for turn in await turns_of(app)]


async def running_elsewhere(app: Harness, *, lease: timedelta = timedelta(hours=1)) -> RunningLog:
    """Begin the turn of the key as another worker would, and return the log that is followed here."""
    turn = await begun_elsewhere(app, lease=lease)
    log = await app.live_turns.open(turn, lambda _: None, stop_when_left=False)
    assert isinstance(log, RunningLog)
    log.is_remote = True
    return log


LOST = End(None, Failure.of(WorkerLost()))


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("log_ends", [False, True])
async def test_the_followed_turn_of_a_worker_that_died_before_any_text_is_replaced(
    accepted: bool, log_ends: bool
) -> None:
    lease = timedelta(seconds=0.05)
    poll = 60 if log_ends else 0.01
    async with application(lease=lease, save_interval=0.01, keyed={"lost_poll_interval": poll}) as app:
        log, handles = await running_elsewhere(app, lease=lease), list[TurnHandle]()
        if accepted:
            log.accept()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            if log_ends:
                with anyio.fail_after(10):
                    while (await app.history.get(log.turn_id, ANN)).status is TurnStatus.IN_PROGRESS:
                        await anyio.sleep(0.01)
                await log.close(LOST)
            await until(lambda: bool(handles))

        assert (WHOLE, False) == ((await read(handles[0])).deltas, handles[0].is_repeated)
        assert [handles[0].turn.id] == [turn.id for turn in await turns_of(app)]
        assert (1, 0) == (len(app.llm.asked), log.readers)


async def test_the_turn_of_a_worker_that_died_after_some_text_is_replayed() -> None:
    async with application() as app, anyio.create_task_group() as tasks:
        log, handles = await running_elsewhere(app), list[TurnHandle]()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        tasks.start_soon(send)
        await until(lambda: log.readers == 1)
        turn = await app.history.get(log.turn_id, ANN)
        await app.history.finish(TurnEnd(turn.ended_by(WorkerLost(), "Hel")))  # which its log does not have
        await log.close(LOST)
        await until(lambda: bool(handles))

        ended = await read(handles[0])
        assert (log.turn_id, ["Hel"], "worker_lost") == (handles[0].turn.id, ended.deltas, ended.code)
        assert [] == app.llm.asked


async def test_a_running_turn_of_another_worker_is_followed_as_soon_as_it_has_text() -> None:
    async with application(keyed={"lost_poll_interval": 0.01}) as app, anyio.create_task_group() as tasks:
        log, handles = await running_elsewhere(app), list[TurnHandle]()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        tasks.start_soon(send)
        await until(lambda: log.readers == 1)
        log.accept()
        await anyio.sleep(0.05)
        assert not handles
        log.append(["Hel"])
        await until(lambda: bool(handles))

        assert Batch(1, ["Hel"], True, None) == await handles[0].next(0)
        log.append(["lo"])
        assert Batch(2, ["lo"], True, None) == await handles[0].next(10)
        assert (handles[0].is_repeated, log.readers) == (True, 1)


async def test_a_turn_of_another_worker_that_fails_meanwhile_is_not_run_again() -> None:
    async with application(keyed={"lost_poll_interval": 0.01}) as app, anyio.create_task_group() as tasks:
        log, handles = await running_elsewhere(app), list[TurnHandle]()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        tasks.start_soon(send)
        await until(lambda: log.readers == 1)
        turn = await app.history.get(log.turn_id, ANN)
        await app.history.finish(TurnEnd(turn.ended_by(LLMUnreachable())))
        await anyio.sleep(0.05)  # the history is asked meanwhile
        await log.close(End(None, Failure.of(LLMUnreachable())))
        await until(lambda: bool(handles))

        assert "upstream_unreachable" == (await read(handles[0])).code
        assert [] == app.llm.asked


async def test_a_turn_of_another_worker_whose_model_is_slow_is_followed_in_the_end() -> None:
    async with application(keyed={"lost_timeout": 0.05}) as app:
        log = await running_elsewhere(app)
        log.accept()
        async with await app.send(KEYED) as handle:
            assert Batch(1, [], True, None) == await handle.next(0)
            log.append(["Hi"])
            assert Batch(1, ["Hi"], True, None) == await handle.next(10)


async def test_a_request_waits_for_text_of_another_worker_although_the_history_does_not_respond() -> None:
    class Unavailable(HistoryInMemory):
        failures = 0

        async def get(self, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn:
            self.failures += 1
            raise HistoryUnavailable

    history = Unavailable()
    keyed = {"lost_poll_interval": 0.01}
    async with application(history=history, keyed=keyed) as app, anyio.create_task_group() as tasks:
        log, handles = await running_elsewhere(app), list[TurnHandle]()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        tasks.start_soon(send)
        await until(lambda: history.failures > 2)
        log.append(["Hi"])
        await until(lambda: bool(handles))

        assert Batch(1, ["Hi"], False, None) == await handles[0].next(0)


async def test_a_client_that_has_seen_text_of_another_worker_follows_at_once() -> None:
    async with application() as app:
        log = await running_elsewhere(app)
        log.append(["Hi"])
        with anyio.fail_after(5):
            assert (await app.send(replace(KEYED, after=1))).is_repeated


async def test_a_request_that_is_cancelled_while_it_waits_for_text_leaves() -> None:
    async with application() as app:
        log = await running_elsewhere(app)
        with anyio.move_on_after(0.05):
            await app.send(KEYED)

        assert log.readers == 0


async def test_the_turn_of_a_worker_that_finishes_it_is_replayed() -> None:
    async with application(keyed={"poll_interval": 0.005}) as app, anyio.create_task_group() as tasks:
        turn, handles = await begun_elsewhere(app), list[TurnHandle]()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        tasks.start_soon(send)
        await anyio.sleep(0.02)
        await app.history.finish(TurnEnd(turn.completed("Hi", "stop")))
        await until(lambda: bool(handles))

        assert ["Hi"] == (await read(handles[0])).deltas
        assert app.llm.asked == []


async def test_a_turn_that_is_deleted_while_a_retry_waits_for_it_is_begun_again() -> None:
    async with application(keyed={"poll_interval": 0.005}) as app, anyio.create_task_group() as tasks:
        await begun_elsewhere(app)
        handles = list[TurnHandle]()

        async def send() -> None:
            handles.append(await app.send(KEYED))

        tasks.start_soon(send)
        await anyio.sleep(0.02)
        await app.history.clear(ANN, None)
        await until(lambda: bool(handles))

        assert WHOLE == (await read(handles[0])).deltas


async def test_a_turn_that_runs_but_cannot_be_followed_is_reported_as_in_progress() -> None:
    async with application(keyed={"lost_timeout": 0.02, "poll_interval": 0.005}) as app:
        await begun_elsewhere(app)

        with pytest.raises(TurnInProgress, match="The turn of this key"):
            await app.send(KEYED)


async def test_the_loser_of_a_race_between_workers_follows_the_winner() -> None:
    class OtherWorkerBegins(HistoryInMemory):
        """Another worker begins and finishes the turn of the key right before this one."""

        async def begin(self, begin: TurnBegin) -> Turn:
            if not self._turns:
                winner = Turn(TurnId("winner"), ANN, KEYED.conversation_id, NOW, KEYED.text)
                await super().begin(TurnBegin(winner, begin.lease, begin.key))
                await self.finish(TurnEnd(winner.completed("Hi", "stop")))
            return await super().begin(begin)

    async with application(history=OtherWorkerBegins()) as app:
        handle = await app.send(KEYED)

        assert ("winner", ["Hi"], True) == (handle.turn.id, (await read(handle)).deltas, handle.is_repeated)
        assert app.llm.asked == []
        assert WHOLE == (await app.complete(message("free again", when_busy=WhenBusy.REJECT))).deltas


class BusyElsewhere(ConversationLeases):
    """Every conversation is busy, on another worker."""

    def __init__(self, app: Harness, *, with_the_key: bool) -> None:
        self._app = app
        self._with_the_key = with_the_key

    async def acquire(
        self,
        turn_id: TurnId,
        user_id: UserId,
        conversation_id: ConversationId,
        *,
        wait: float,
        first: bool = False,
        tentative: bool = False,
    ) -> Lease:
        if self._with_the_key:
            turn = await begun_elsewhere(self._app)
            await self._app.history.finish(TurnEnd(turn.completed("Hi", "stop")))
        raise TurnInProgress

    async def holder(self, user_id: UserId, conversation_id: ConversationId) -> TurnId | None:
        return TurnId("another")


@pytest.mark.parametrize("with_the_key", [True, False])
async def test_a_conversation_that_another_worker_keeps_busy_is_no_reason_to_reject_its_own_key(
    with_the_key: bool,
) -> None:
    async with application() as app:
        send = replace(app.send, leases=BusyElsewhere(app, with_the_key=with_the_key))
        if with_the_key:
            assert ["Hi"] == (await read(await send(KEYED))).deltas
        else:
            with pytest.raises(TurnInProgress):
                await send(KEYED)


async def test_an_interrupting_request_does_not_interrupt_the_turn_of_its_own_key_on_another_worker() -> None:
    """Another worker has received the same request, and begins the turn after its key was looked for here."""

    async with application() as app:

        class BusyWithIt(BusyElsewhere):
            turn: Turn | None = None

            async def acquire(self, *_: object, tentative: bool = False, **__: object) -> Lease:
                if tentative:
                    raise TurnInProgress
                self.turn = await begun_elsewhere(app)
                await anyio.sleep_forever()
                raise AssertionError

            async def holder(self, user_id: UserId, conversation_id: ConversationId) -> TurnId | None:
                return None if self.turn is None else self.turn.id

        leases = BusyWithIt(app, with_the_key=True)
        superseding = Superseding(leases, app.live_turns, app.send.keyed_turns, app.observer)
        send = replace(app.send, leases=leases, superseding=superseding)
        async with anyio.create_task_group() as tasks:
            handles: list[TurnHandle] = []

            async def interrupt() -> None:
                handles.append(await send(replace(KEYED, when_busy=WhenBusy.INTERRUPT)))

            tasks.start_soon(interrupt)
            await anyio.sleep(0.05)
            assert leases.turn is not None
            await app.history.finish(TurnEnd(leases.turn.completed("Hi", "stop")))

        assert ["Hi"] == (await read(handles[0])).deltas


async def test_an_outgrown_log_is_replaced_by_the_stored_reply() -> None:
    async with application(live_turns=LiveTurnsInProcess(max_events=2)) as app:
        await app.complete(KEYED)
        handle = await KeyedTurns(app.history, app.live_turns).follow((await turns_of(app))[0], 0)

        assert handle is not None
        assert Batch(1, ["Hello, world!"], True, (await read(handle)).end) == await handle.next(0)
