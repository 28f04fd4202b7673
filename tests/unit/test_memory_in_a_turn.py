"""Long-term memory in a turn: recall, remembering, and failures that do not affect the reply."""

from uuid import uuid4

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable
from application.ports.llm import LLMDisconnected
from application.ports.memory import MemoryLeaked, MemoryUnavailable
from application.ports.memory_outbox import OutboxCounts
from application.ports.turn_observer import Where
from domain.context import NOTES
from domain.conversation import TurnStatus, UserId
from tests.harness.fakes import LearningMemory, ScriptedReply
from tests.harness.script import ANN, NO_DELAYS, FailingHistory, Harness, application, message, read, until

BOB = UserId("bob")


async def knowing(*facts: str) -> LearningMemory:
    memory = LearningMemory()
    for fact in facts:
        await memory.store(ANN, fact, 0.5)
    return memory


def prompt(app: Harness) -> str:
    """Return the last message of the latest call to the model."""
    return app.llm.asked[-1][-1].text


async def remembered(app: Harness, user: UserId = ANN) -> list[str]:
    return [one.fact for one in (await app.memory.page(user, 200, None)).items]


async def until_settled(app: Harness) -> None:
    with anyio.fail_after(10):
        while await app.history.counts() != OutboxCounts(0, 0, 0):
            await anyio.sleep(0.001)


async def test_relevant_memories_are_sent_to_the_model_but_not_stored_with_the_turn() -> None:
    async with application(memory=await knowing("Ann's dog is called Bello", "Ann lives in Vienna")) as app:
        await app.complete(message("What is my dog called?"))

        [ended] = app.observer.ended
        assert "Ann's dog is called Bello" in prompt(app)
        assert "Vienna" not in prompt(app)
        assert prompt(app).endswith("What is my dog called?")
        assert ended.turn.user_message == "What is my dog called?"
        assert ended.memories == 1


async def test_irrelevant_memories_are_not_sent_to_the_model() -> None:
    async with application(memory=await knowing("Ann lives in Vienna")) as app:
        await app.complete(message("What is my dog called?"))

        assert "What is my dog called?" == prompt(app)
        assert app.observer.ended[0].memories == 0


async def test_memories_of_another_user_are_not_sent_to_the_model() -> None:
    async with application(memory=await knowing("Ann's dog is called Bello")) as app:
        await app.complete(message("What is my dog called?", user=BOB))

        assert NOTES not in prompt(app)


async def test_a_turn_that_does_not_use_memory_recalls_nothing_and_is_not_remembered() -> None:
    async with application(memory=await knowing("Ann's dog is called Bello")) as app:
        await app.complete(message("What is my dog called?", use_memory=False))

        assert "What is my dog called?" == prompt(app)
        assert app.observer.ended[0].memories is None
        assert OutboxCounts(0, 0, 0) == await app.history.counts()


@pytest.mark.parametrize("error", [MemoryUnavailable(), MemoryLeaked()])
@pytest.mark.row("M1")
async def test_a_failing_recall_does_not_fail_the_turn(error: MemoryUnavailable) -> None:
    memory = await knowing("Ann's dog is called Bello")
    memory.plans["recall"] = [error]
    async with application(memory=memory) as app:
        ended = await app.complete(message("What is my dog called?"))

        assert (None, "Hello, world!") == (ended.code, "".join(ended.deltas))
        assert "What is my dog called?" == prompt(app)
        assert (1, None) == (app.recall.failures, app.observer.ended[0].memories)


async def test_a_failing_history_fails_the_turn_despite_the_concurrent_recall() -> None:
    error = HistoryUnavailable()
    history = FailingHistory(plans={"latest": [error]})
    async with application(history=history, memory=await knowing("likes tea")) as app:
        ended = await app.complete(message())

        assert "history_unavailable" == ended.code


async def test_nothing_is_recalled_if_it_is_unknown_whether_the_user_is_being_forgotten() -> None:
    class Failing(HistoryInMemory):
        async def forget_attempts(self, user_id: UserId) -> int | None:
            raise HistoryUnavailable

    async with application(history=Failing(), memory=await knowing("Ann's dog is called Bello")) as app:
        ended = await app.complete(message("What is my dog called?"))

        assert ended.code is None
        assert "What is my dog called?" == prompt(app)
        assert 1 == app.recall.failures
        assert [Where.CHECKING_FORGETTING] == [where for where, _ in app.observer.failures]


async def test_a_turn_that_is_stopped_during_the_recall_ends_immediately() -> None:
    memory = await knowing()
    memory.gate = anyio.Event()
    async with application(memory=memory) as app:
        handle = await app.send(message())
        await until(lambda: "recall" in memory.calls)
        async with handle:
            pass
        await app.until_idle()

        assert (await app.stored(handle.turn.id)).status == TurnStatus.INTERRUPTED
        assert [] == app.llm.asked


async def test_nothing_is_recalled_while_the_user_is_being_forgotten() -> None:
    memory = await knowing("Ann's dog is called Bello")
    memory.uncertain = 1_000
    async with application(memory=memory) as app:
        await app.history.begin_forgetting(ANN)
        await app.complete(message("What is my dog called?"))

        assert "What is my dog called?" == prompt(app)


async def test_a_completed_turn_is_remembered() -> None:
    async with application(memory=LearningMemory()) as app:
        await app.complete(message("My dog is called Bello"))
        await until_settled(app)

        assert ["My dog is called Bello"] == await remembered(app)


@pytest.mark.parametrize(
    "script",
    [
        ScriptedReply(deltas=(), refusal=LLMDisconnected()),
        ScriptedReply(deltas=("Hel",), failure=LLMDisconnected()),
    ],
    ids=["failed", "interrupted"],
)
async def test_a_turn_that_was_not_completed_is_not_remembered(script: ScriptedReply) -> None:
    async with application(script, memory=LearningMemory()) as app:
        await app.complete(message("My dog is called Bello"))

        assert OutboxCounts(0, 0, 0) == await app.history.counts()
        assert [] == await remembered(app)


async def test_turns_are_not_offered_to_a_memory_that_does_not_extract_facts() -> None:
    memory = LearningMemory()
    memory.extracts_from_turns = False
    async with application(memory=memory) as app:
        await app.complete(message("My dog is called Bello"))

        assert OutboxCounts(0, 0, 0) == await app.history.counts()
        assert "remember" not in memory.calls


async def test_readers_receive_the_end_before_the_turn_is_remembered() -> None:
    memory = LearningMemory()
    async with application(memory=memory) as app:
        handle = await app.send(message("My dog is called Bello"))
        await app.until_replied(handle)
        memory.gate = anyio.Event()
        assert (await read(handle)).code is None
        assert OutboxCounts(0, 0, 0) != await app.history.counts()
        memory.gate.set()
        await until_settled(app)


async def test_a_deleted_turn_is_not_put_into_the_outbox() -> None:
    history = HistoryInMemory()
    async with application(ScriptedReply(pause=0.01), history=history, memory=LearningMemory()) as app:
        await app.send(message(str(uuid4())))
        await history.clear(ANN, None)
        await app.until_idle()

        assert OutboxCounts(0, 0, 0) == await history.counts()


async def test_a_turn_whose_end_is_stored_on_the_second_attempt_is_remembered_once() -> None:
    memory = LearningMemory()
    history = FailingHistory(plans={"finish": [HistoryUnavailable()]})
    async with application(history=history, memory=memory, store_delays=NO_DELAYS) as app:
        ended = await app.complete(message("My dog is called Bello"))
        await until_settled(app)

        assert ended.code is None
        assert 1 == memory.calls.count("remember")


async def test_a_turn_whose_end_cannot_be_stored_is_not_remembered() -> None:
    memory = LearningMemory()
    history = FailingHistory(plans={"finish": [HistoryUnavailable() for _ in range(3)]})
    async with application(history=history, memory=memory, store_delays=NO_DELAYS) as app:
        ended = await app.complete(message("My dog is called Bello"))

        assert "history_write_failed" == ended.code
        assert OutboxCounts(0, 0, 0) == await history.counts()
    assert "remember" not in memory.calls


async def test_a_turn_that_runs_while_its_user_is_forgotten_is_not_remembered() -> None:
    memory = LearningMemory()
    async with application(ScriptedReply(pause=0.01), memory=memory) as app:
        handle = await app.send(message("My dog is called Bello"))
        assert await app.forgetting.forget(ANN)
        await app.until_idle()

        assert TurnStatus.COMPLETED == (await app.stored(handle.turn.id)).status
        assert OutboxCounts(0, 0, 0) == await app.history.counts()
    assert "remember" not in memory.calls
