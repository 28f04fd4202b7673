"""Beginning a turn: what must be true before the model is asked, and what is refused."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable
from application.ports.llm import Reply
from application.turns import send_message
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Message, Turn, TurnStatus, UserId
from domain.errors import ContextTooLong, MessageTooLong, ServerShuttingDown, TurnInProgress
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.script import ANN, NOW, FailingHistory, Stage, message, read, staged, until

HANGS = ScriptedReply(texts=("Hel",), hangs=True)


async def turns_of(stage: Stage, user: UserId = ANN) -> Sequence[Turn]:
    return (await stage.history.page(user, None, 50, None)).items


async def test_a_turn_begins_in_progress_with_its_message_as_sent() -> None:
    async with staged(HANGS) as stage:
        begun = await stage.send(message("  Hello\n", conversation=ConversationId("work")))

        expected = Turn(begun.running.turn.id, ANN, ConversationId("work"), NOW, "  Hello\n")
        assert expected == await stage.history.get(begun.running.turn.id)


async def test_the_message_is_stored_before_the_model_is_asked() -> None:
    order: list[str] = []

    class Listening(HistoryInMemory):
        async def begin(self, turn: Turn) -> None:
            await anyio.sleep(0.01)
            await super().begin(turn)
            order.append("stored")

    class Asked(ScriptedLLM):
        @asynccontextmanager
        async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
            order.append("asked")
            async with super().reply(messages) as reply:
                yield reply

    async with staged(llm=Asked(), history=Listening()) as stage:
        await stage.ended(message())

    assert order == ["stored", "asked"]


async def test_a_message_that_can_not_be_stored_is_refused_and_the_model_is_not_asked() -> None:
    async with staged(history=FailingHistory({"begin": [HistoryUnavailable()]})) as stage:
        with pytest.raises(HistoryUnavailable):
            await stage.send(message())

        assert stage.llm.asked == []
        assert len(stage.turns) == 0


async def test_a_message_that_could_not_be_stored_leaves_the_conversation_free() -> None:
    async with staged(history=FailingHistory({"begin": [HistoryUnavailable()]})) as stage:
        with pytest.raises(HistoryUnavailable):
            await stage.send(message())

        assert (await stage.ended(message(wait_when_busy=False))).end.finish_reason == "stop"


async def test_a_message_that_is_too_long_is_refused_and_not_stored() -> None:
    async with staged(max_message_chars=5) as stage:
        with pytest.raises(MessageTooLong, match=r"^The message has 6 characters; the limit is 5\.$"):
            await stage.send(message("123456"))

        assert await turns_of(stage) == []


async def test_a_message_of_the_greatest_length_is_taken() -> None:
    async with staged(max_message_chars=5) as stage:
        assert (await stage.ended(message("12345"))).end.finish_reason == "stop"


async def test_a_message_that_can_not_fit_the_context_is_refused_and_not_stored() -> None:
    async with staged(context_tokens=20, max_message_chars=1000) as stage:
        with pytest.raises(ContextTooLong):
            await stage.send(message("many words " * 50))

        assert await turns_of(stage) == []


async def test_a_second_turn_of_a_conversation_waits_for_the_first_to_end() -> None:
    async with staged(HANGS, ScriptedReply()) as stage, anyio.create_task_group() as tasks:
        first = await stage.send(message("One"))
        await until(lambda: bool(first.running.texts))
        tasks.start_soon(stage.ended, message("Two"))
        await anyio.sleep(0.02)
        assert len(stage.llm.asked) == 1

        await stage.live_turns.stop(first.running.turn.id)

    assert [asked[-1].text for asked in stage.llm.asked] == ["One", "Two"]


async def test_a_turn_that_has_waited_sees_the_one_it_waited_for() -> None:
    async with staged(HANGS, ScriptedReply()) as stage, anyio.create_task_group() as tasks:
        first = await stage.send(message("One"))
        await until(lambda: bool(first.running.texts))
        tasks.start_soon(stage.ended, message("Two"))
        await anyio.sleep(0.02)

        await stage.live_turns.stop(first.running.turn.id)

    assert [each.text for each in stage.llm.asked[1]] == ["Be brief.", "One", "Hel", "Two"]


async def test_a_turn_that_may_not_wait_is_refused_at_once_while_another_runs() -> None:
    async with staged(HANGS) as stage:
        await stage.send(message())

        with pytest.raises(TurnInProgress):
            await stage.send(message(wait_when_busy=False))

        assert len(await turns_of(stage)) == 1


async def test_a_turn_waits_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_message, "QUEUE_WAIT", 0.02)
    async with staged(HANGS) as stage:
        await stage.send(message())

        with pytest.raises(TurnInProgress):
            await stage.send(message())


async def test_turns_of_different_conversations_and_users_run_side_by_side() -> None:
    async with staged(HANGS) as stage:
        for user in ("ann", "ben"):
            for conversation in ("home", "work"):
                sent = message(user=UserId(user), conversation=ConversationId(conversation), wait_when_busy=False)
                await stage.send(sent)

        assert len(stage.turns) == 4


async def test_a_sender_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    async with staged(HANGS) as stage:
        first = await stage.send(message())
        with anyio.move_on_after(0.02):
            await stage.send(message("given up"))
        await stage.live_turns.stop(first.running.turn.id)
        await until(lambda: not len(stage.turns))

        assert [turn.user_message for turn in await turns_of(stage)] == ["Hello"]
        await stage.send(message("free again", wait_when_busy=False))


async def test_a_sender_that_is_cancelled_while_the_turn_is_stored_leaves_no_turn_without_an_end() -> None:
    class Slow(HistoryInMemory):
        async def begin(self, turn: Turn) -> None:
            await anyio.sleep(0.05)
            await super().begin(turn)

    async with staged(history=Slow()) as stage:
        with anyio.move_on_after(0.01):
            await stage.send(message())
        await until(lambda: not len(stage.turns))

        assert [turn.status for turn in await turns_of(stage)] == [TurnStatus.COMPLETED]


async def test_no_turn_begins_once_the_service_stops() -> None:
    async with staged() as stage:
        await stage.turns.drain(grace=0)

        with pytest.raises(ServerShuttingDown):
            await stage.send(message())

        assert await turns_of(stage) == []


async def test_a_turn_that_waited_while_the_service_began_to_stop_is_refused() -> None:
    async with staged(HANGS) as stage:
        await stage.send(message("One"))
        refused = []

        async def wait() -> None:
            try:
                await stage.send(message("Two"))
            except ServerShuttingDown as refusal:
                refused.append(refusal)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.02)
            await stage.turns.drain(grace=0)

        assert len(refused) == 1
        assert [turn.user_message for turn in await turns_of(stage)] == ["One"]


async def test_the_first_reader_is_present_before_anything_is_said() -> None:
    async with staged(HANGS) as stage:
        begun = await stage.send(message())
        async with begun.reader:
            pass
        await begun.running.ended.wait()

        stored = await stage.history.get(begun.running.turn.id)
        assert (stored.status, stored.reason) == (TurnStatus.INTERRUPTED, "client_disconnected")


async def test_a_turn_that_keeps_running_ends_without_readers() -> None:
    async with staged(ScriptedReply(pause=0.005)) as stage:
        begun = await stage.send(message(keep_running=True))
        async with begun.reader:
            pass
        await begun.running.ended.wait()

        assert (await stage.history.get(begun.running.turn.id)).status == TurnStatus.COMPLETED


async def test_the_default_conversation_is_one_like_any_other() -> None:
    async with staged() as stage:
        await stage.ended(message())
        begun = await stage.send(message("Again", conversation=DEFAULT_CONVERSATION))
        await read(begun.reader)

    assert [each.text for each in stage.llm.asked[1]] == ["Be brief.", "Hello", "Hello, world!", "Again"]
