"""Beginning a turn: rejections, waiting for the conversation, and the effects before the call to the model."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar

import anyio
import pytest

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from adapters.history_in_memory import HistoryInMemory
from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.conversation_leases import Lease
from application.ports.history import HistoryUnavailable, TurnBegin, TurnEnd
from application.ports.live_turns import EventLog, LiveTurnsUnavailable, Reader, Stop
from application.ports.llm import AS_CONFIGURED, Reply, ReplyOptions
from application.ports.turn_observer import Where
from application.turns.new_message import WhenBusy
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Message, Turn, TurnId, TurnStatus, UserId
from domain.errors import (
    Cancelled,
    ContextTooLong,
    Failure,
    Interruption,
    MessageTooLong,
    ServerShuttingDown,
    Superseded,
    TurnInProgress,
)
from domain.resent import SentMessage
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.script import ANN, NOW, FailingHistory, Harness, application, message, read, until

WHOLE = ["Hello", ", ", "world", "!"]
HANGS = ScriptedReply(deltas=("Hel",), hangs=True)


async def turns_of(app: Harness, user: UserId = ANN) -> Sequence[Turn]:
    return (await app.history.page(user, None, 50, None)).items


async def test_a_turn_is_stored_in_progress_with_its_unmodified_message() -> None:
    async with application(HANGS) as app:
        handle = await app.send(message("  Hello\n", conversation=ConversationId("work")))

        expected = Turn(handle.turn.id, ANN, ConversationId("work"), NOW, "  Hello\n")
        assert expected == await app.stored(handle.turn.id)


async def test_the_message_is_stored_before_the_model_is_called() -> None:
    order: list[str] = []

    class SlowBegin(HistoryInMemory):
        async def begin(self, begin: TurnBegin) -> Turn:
            await anyio.sleep(0.01)
            stored = await super().begin(begin)
            order.append("stored")
            return stored

    class RecordingLLM(ScriptedLLM):
        @asynccontextmanager
        async def reply(
            self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
        ) -> AsyncIterator[Reply]:
            order.append("called")
            async with super().reply(messages, max_tokens, options) as reply:
                yield reply

    async with application(llm=RecordingLLM(), history=SlowBegin()) as app:
        await app.complete(message())

    assert order == ["stored", "called"]


async def test_a_message_that_cannot_be_stored_is_rejected_before_the_model_is_called() -> None:
    async with application(history=FailingHistory({"begin": [HistoryUnavailable()]})) as app:
        with pytest.raises(HistoryUnavailable):
            await app.send(message())

        assert app.llm.asked == []
        assert len(app.runner) == 0


async def test_a_message_that_cannot_be_stored_leaves_the_conversation_free() -> None:
    async with application(history=FailingHistory({"begin": [HistoryUnavailable()]})) as app:
        with pytest.raises(HistoryUnavailable):
            await app.send(message())

        assert (await app.complete(message(when_busy=WhenBusy.REJECT))).end.finish_reason == "stop"


async def test_a_message_that_is_too_long_is_rejected_and_not_stored() -> None:
    async with application(max_message_chars=5) as app:
        with pytest.raises(MessageTooLong, match=r"^The message has 6 characters; the limit is 5\.$"):
            await app.send(message("123456"))

        assert await turns_of(app) == []


async def test_a_message_of_the_maximum_length_is_accepted() -> None:
    async with application(max_message_chars=5) as app:
        assert (await app.complete(message("12345"))).end.finish_reason == "stop"


async def test_a_message_that_exceeds_the_context_is_rejected_and_not_stored() -> None:
    async with application(context_tokens=20, max_message_chars=1000) as app:
        with pytest.raises(ContextTooLong):
            await app.send(message("many words " * 50))

        assert await turns_of(app) == []


async def test_a_second_turn_of_a_conversation_waits_for_the_first_to_end() -> None:
    async with application(HANGS, ScriptedReply()) as app, anyio.create_task_group() as tasks:
        first = await app.send(message("One"))
        await app.until_replied(first)
        tasks.start_soon(app.complete, message("Two"))
        await anyio.sleep(0.02)
        assert len(app.llm.asked) == 1

        await app.live_turns.stop(first.turn.id, None)

    assert [asked[-1].text for asked in app.llm.asked] == ["One", "Two"]


async def test_the_context_of_a_turn_that_waited_includes_the_turn_before() -> None:
    async with application(HANGS, ScriptedReply()) as app, anyio.create_task_group() as tasks:
        first = await app.send(message("One"))
        await app.until_replied(first)
        tasks.start_soon(app.complete, message("Two"))
        await anyio.sleep(0.02)

        await app.live_turns.stop(first.turn.id, None)

    assert [each.text for each in app.llm.asked[1]] == ["Be brief.", "One", "Hel", "Two"]


async def test_a_turn_that_must_not_wait_is_rejected_while_another_runs() -> None:
    async with application(HANGS) as app:
        await app.send(message())

        with pytest.raises(TurnInProgress):
            await app.send(message(when_busy=WhenBusy.REJECT))

        assert len(await turns_of(app)) == 1


async def test_a_turn_is_rejected_after_the_queue_timeout() -> None:
    async with application(HANGS, queue_timeout=0.02) as app:
        await app.send(message())

        with pytest.raises(TurnInProgress):
            await app.send(message())


async def test_an_interrupting_turn_supersedes_the_running_one_and_runs_before_those_that_wait() -> None:
    async with application(HANGS, ScriptedReply()) as app, anyio.create_task_group() as tasks:
        first = await app.send(message("One"))
        await app.until_replied(first)
        tasks.start_soon(app.complete, message("Three"))
        await anyio.sleep(0.02)
        assert WHOLE == (await app.complete(message("Two", when_busy=WhenBusy.INTERRUPT))).deltas

        stopped, failure = await app.stored(first.turn.id), (await read(first)).end.failure
        assert ("Hel", TurnStatus.INTERRUPTED, "superseded") == (stopped.reply, stopped.status, stopped.reason)
        assert Failure.of(Superseded()) == failure
        assert not failure.retryable
    assert ["Two", "Three"] == [asked[-1].text for asked in app.llm.asked[1:]]


async def test_an_interrupting_turn_of_a_free_conversation_runs_at_once() -> None:
    async with application() as app:
        assert WHOLE == (await app.complete(message(when_busy=WhenBusy.INTERRUPT))).deltas


class HangsBefore(ScriptedLLM):
    """Completes its reply to one message only. A turn may be interrupted before it has called the model."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.last = last

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        self.scripts = (ScriptedReply() if messages[-1].text == self.last else HANGS,)
        async with super().reply(messages, max_tokens, options) as reply:
            yield reply


async def test_an_interrupting_turn_stops_one_that_is_about_to_begin() -> None:
    class SlowBegin(HistoryInMemory):
        async def begin(self, begin: TurnBegin) -> Turn:
            await anyio.sleep(0.05)
            return await super().begin(begin)

    async with application(llm=HangsBefore("Two"), history=SlowBegin()) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.complete, message("One"))
        await anyio.sleep(0.01)
        await app.complete(message("Two", when_busy=WhenBusy.INTERRUPT))

        assert ["superseded", None] == [turn.reason for turn in await turns_of(app)]


async def test_the_last_of_several_interrupting_turns_runs_to_its_end() -> None:
    async with application(llm=HangsBefore("Four")) as app, anyio.create_task_group() as tasks:
        for text in ("One", "Two", "Three", "Four"):
            tasks.start_soon(app.complete, message(text, when_busy=WhenBusy.INTERRUPT))
            await anyio.sleep(0.001)
        await until(lambda: len(app.observer.ended) == 4)

        expected = [(text, "superseded") for text in ("One", "Two", "Three")]
        assert [*expected, ("Four", None)] == [(turn.user_message, turn.reason) for turn in await turns_of(app)]


class SlowFinish(HistoryInMemory):
    async def finish(self, end: TurnEnd) -> Turn | None:
        await anyio.sleep(0.1)
        return await super().finish(end)


async def test_an_interrupting_turn_that_waited_too_long_leaves_the_conversation_free() -> None:
    async with application(HANGS, ScriptedReply(), history=SlowFinish(), queue_timeout=0.02) as app:
        await app.until_replied(await app.send(message()))
        with pytest.raises(TurnInProgress):
            await app.send(message(when_busy=WhenBusy.INTERRUPT))
        await app.until_idle()

        assert WHOLE == (await app.complete(message(when_busy=WhenBusy.REJECT))).deltas


async def test_an_interrupting_turn_whose_sender_is_cancelled_leaves_the_conversation_free() -> None:
    async with application(HANGS, ScriptedReply(), history=SlowFinish()) as app:
        await app.until_replied(await app.send(message()))
        with anyio.move_on_after(0.02):
            await app.send(message(when_busy=WhenBusy.INTERRUPT))
        await app.until_idle()

        assert WHOLE == (await app.complete(message(when_busy=WhenBusy.REJECT))).deltas


async def test_an_interrupting_turn_is_rejected_if_the_running_one_cannot_be_stopped() -> None:
    class Unavailable(LiveTurnsInProcess):
        async def stop(
            self,
            turn_id: TurnId,
            owner: UserId | None,
            interruption: Interruption = Cancelled(),  # noqa: B008
        ) -> None:
            raise LiveTurnsUnavailable

    async with application(HANGS, live_turns=Unavailable()) as app:
        await app.send(message())

        with pytest.raises(LiveTurnsUnavailable):
            await app.send(message(when_busy=WhenBusy.INTERRUPT))


async def test_turns_of_different_conversations_and_users_run_concurrently() -> None:
    async with application(HANGS) as app:
        for user in ("ann", "ben"):
            for conversation in ("home", "work"):
                sent = message(user=UserId(user), conversation=ConversationId(conversation), when_busy=WhenBusy.REJECT)
                await app.send(sent)

        assert len(app.runner) == 4


async def test_a_cancelled_wait_stores_nothing_and_leaves_the_conversation_free() -> None:
    async with application(HANGS) as app:
        first = await app.send(message())
        with anyio.move_on_after(0.02):
            await app.send(message("given up"))
        await app.live_turns.stop(first.turn.id, None)
        await app.until_idle()

        assert [turn.user_message for turn in await turns_of(app)] == ["Hello"]
        await app.send(message("free again", when_busy=WhenBusy.REJECT))


async def test_a_turn_whose_sender_is_cancelled_while_it_is_stored_still_ends() -> None:
    class Slow(HistoryInMemory):
        async def begin(self, begin: TurnBegin) -> Turn:
            await anyio.sleep(0.05)
            return await super().begin(begin)

    async with application(history=Slow()) as app:
        with anyio.move_on_after(0.01):
            await app.send(message())
        await app.until_idle()

        assert [turn.status for turn in await turns_of(app)] == [TurnStatus.COMPLETED]


async def test_no_turn_begins_after_the_service_has_drained() -> None:
    async with application() as app:
        await app.runner.drain(grace=0)

        with pytest.raises(ServerShuttingDown):
            await app.send(message())

        assert await turns_of(app) == []


async def test_a_turn_that_waits_when_the_service_drains_is_rejected() -> None:
    async with application(HANGS) as app:
        await app.send(message("One"))
        rejections = []

        async def wait() -> None:
            try:
                await app.send(message("Two"))
            except ServerShuttingDown as rejection:
                rejections.append(rejection)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.02)
            await app.runner.drain(grace=0)

        assert len(rejections) == 1
        assert [turn.user_message for turn in await turns_of(app)] == ["One"]


async def test_a_turn_is_interrupted_if_its_first_reader_disconnects_before_the_first_delta() -> None:
    async with application(HANGS) as app:
        handle = await app.send(message())
        async with handle:
            pass
        await app.until_idle()

        stored = await app.stored(handle.turn.id)
        assert (stored.status, stored.reason) == (TurnStatus.INTERRUPTED, "client_disconnected")


async def test_a_turn_with_keep_running_completes_without_readers() -> None:
    async with application(ScriptedReply(pause=0.005)) as app:
        handle = await app.send(message(keep_running=True))
        async with handle:
            pass
        await app.until_idle()

        assert (await app.stored(handle.turn.id)).status == TurnStatus.COMPLETED


async def test_the_default_conversation_has_a_context() -> None:
    async with application() as app:
        await app.complete(message())
        handle = await app.send(message("Again", conversation=DEFAULT_CONVERSATION))
        await read(handle)

    assert [each.text for each in app.llm.asked[1]] == ["Be brief.", "Hello", "Hello, world!", "Again"]


async def test_a_rejected_message_is_observed() -> None:
    async with application(max_message_chars=5) as app:
        with pytest.raises(MessageTooLong):
            await app.send(message("123456"))

        assert ["message_too_long"] == [error.code for error in app.observer.rejections]


class FailingLiveTurns(LiveTurnsInProcess):
    """Raises `error` from `method`."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__()
        self._method = method
        self._error = error

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        if self._method == "open":
            raise self._error
        return await super().open(turn, stop, stop_when_left=stop_when_left)

    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        if self._method == "join":
            raise self._error
        return await super().join(turn_id, owner, after)


@pytest.mark.parametrize("method", ["open", "join"])
@pytest.mark.parametrize(
    ("error", "code"),
    [(LiveTurnsUnavailable(), "live_turns_unavailable"), (RuntimeError("a bug"), "internal_error")],
    ids=["unavailable", "bug"],
)
async def test_a_turn_without_an_event_log_fails_before_the_model_is_called(
    method: str, error: Exception, code: str
) -> None:
    async with application(live_turns=FailingLiveTurns(method, error)) as app:
        ended = await app.complete(message())

        turn = await app.last_turn()
        assert (code, False) == (ended.code, ended.accepted)
        assert (TurnStatus.FAILED, code) == (turn.status, turn.reason)
        assert app.llm.asked == []


async def test_a_turn_without_an_event_log_leaves_the_conversation_free() -> None:
    async with application(live_turns=FailingLiveTurns("join", LiveTurnsUnavailable())) as app:
        await app.complete(message())
        await app.complete(message(when_busy=WhenBusy.REJECT))

        assert 2 == len(await turns_of(app))


async def test_a_turn_without_an_event_log_whose_end_cannot_be_stored_is_left_to_its_lease() -> None:
    history = FailingHistory({"finish": [HistoryUnavailable()]})
    live_turns = FailingLiveTurns("open", LiveTurnsUnavailable())
    async with application(history=history, live_turns=live_turns) as app:
        ended = await app.complete(message())

        assert "live_turns_unavailable" == ended.code
        assert TurnStatus.IN_PROGRESS == (await app.last_turn()).status
        assert [Where.WRITING_EVENTS, Where.STORING_END] == [where for where, _ in app.observer.failures]


async def test_a_turn_that_cannot_be_followed_is_observed_as_ended() -> None:
    async with application(live_turns=FailingLiveTurns("open", LiveTurnsUnavailable())) as app:
        await app.complete(message())

        (ended,) = app.observer.ended
        assert (await app.last_turn(), "live_turns_unavailable") == (ended.turn, ended.error and ended.error.code)


class HangingLiveTurns(LiveTurnsInProcess):
    """Never returns from one method."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        if self._method == "open":
            await anyio.sleep_forever()
        return await super().open(turn, stop, stop_when_left=stop_when_left)

    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        if self._method == "join":
            await anyio.sleep_forever()
        return await super().join(turn_id, owner, after)


@pytest.mark.parametrize("method", ["open", "join"])
async def test_a_turn_whose_log_does_not_open_in_time_fails_and_leaves_the_conversation_free(method: str) -> None:
    async with application(live_turns=HangingLiveTurns(method)) as app:
        send = replace(app.send, open_timeout=0.01)
        with anyio.fail_after(5):
            ended = await read(await send(message()))
            await read(await send(message(when_busy=WhenBusy.REJECT)))

        assert "live_turns_unavailable" == ended.code
        assert TurnStatus.FAILED == (await app.last_turn()).status


async def test_the_conversation_is_held_when_the_turns_that_a_client_shows_are_looked_for() -> None:
    class Leases(ConversationLeasesInProcess):
        tentative: ClassVar[list[bool]] = []

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
            self.tentative.append(tentative)
            return await super().acquire(turn_id, user_id, conversation_id, wait=wait, first=first)

    async with application() as app:
        send = replace(app.send, leases=Leases())
        for resent in (None, [SentMessage("One", answered=True)]):
            await read(await send(replace(message("Two"), resent=resent)))

    assert [True, False] == Leases.tentative
