"""What long-term memory does in a turn, and what it never does to one."""

from uuid import uuid4

import anyio
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable
from application.ports.llm import LLMDisconnected
from application.ports.memory import MemoryLeaked, MemoryUnavailable
from application.ports.memory_outbox import OutboxCounts
from domain.context import NOTES
from domain.conversation import TurnStatus, UserId
from tests.harness.fakes import LearningMemory, ScriptedReply
from tests.harness.script import ANN, FailingHistory, Stage, message, staged, until

BOB = UserId("bob")


async def knowing(*facts: str) -> LearningMemory:
    memory = LearningMemory()
    for fact in facts:
        await memory.store(ANN, fact, 0.5)
    return memory


def asked(stage: Stage, call: int = -1) -> str:
    """The last message that the model got to see."""
    return stage.llm.asked[call][-1].text


async def remembered(stage: Stage, user: UserId = ANN) -> list[str]:
    return [one.fact for one in (await stage.memory.page(user, 200, None)).items]


async def settled(stage: Stage) -> None:
    with anyio.fail_after(10):
        while await stage.history.counts() != OutboxCounts(0, 0, 0):
            await anyio.sleep(0.001)


async def test_what_fits_the_message_is_seen_by_the_model_and_not_stored_with_the_turn() -> None:
    async with staged(memory=await knowing("Ann's dog is called Bello", "Ann lives in Vienna")) as stage:
        await stage.ended(message("What is my dog called?"))

        turn, _, figures = stage.observer.turns[0]
        assert "Ann's dog is called Bello" in asked(stage)
        assert "Vienna" not in asked(stage)
        assert asked(stage).endswith("What is my dog called?")
        assert turn.user_message == "What is my dog called?"
        assert figures.memories == 1


async def test_where_nothing_fits_the_message_stands_alone() -> None:
    async with staged(memory=await knowing("Ann lives in Vienna")) as stage:
        await stage.ended(message("What is my dog called?"))

        assert "What is my dog called?" == asked(stage)
        assert stage.observer.turns[0][2].memories == 0


async def test_nobody_elses_memories_are_seen() -> None:
    async with staged(memory=await knowing("Ann's dog is called Bello")) as stage:
        await stage.ended(message("What is my dog called?", user=BOB))

        assert NOTES not in asked(stage)


async def test_a_turn_that_keeps_out_of_memory_recalls_nothing_and_is_not_remembered() -> None:
    async with staged(memory=await knowing("Ann's dog is called Bello")) as stage:
        await stage.ended(message("What is my dog called?", use_memory=False))

        assert "What is my dog called?" == asked(stage)
        assert stage.observer.turns[0][2].memories is None
        assert OutboxCounts(0, 0, 0) == await stage.history.counts()


@pytest.mark.parametrize("error", [MemoryUnavailable(), MemoryLeaked()])
async def test_a_memory_that_fails_costs_the_memories_only(error: MemoryUnavailable) -> None:
    memory = await knowing("Ann's dog is called Bello")
    memory.plans["recall"] = [error]
    async with staged(memory=memory) as stage:
        ended = await stage.ended(message("What is my dog called?"))

        assert (None, "Hello, world!") == (ended.end.error, "".join(ended.texts))
        assert "What is my dog called?" == asked(stage)
        assert (1, None) == (stage.recollection.failures, stage.observer.turns[0][2].memories)


async def test_a_history_that_fails_beside_the_recall_fails_as_ever() -> None:
    error = HistoryUnavailable()
    history = FailingHistory(plans={"latest": [error]})
    async with staged(history=history, memory=await knowing("likes tea")) as stage:
        ended = await stage.ended(message())

        assert ended.end.error is error


async def test_where_it_can_not_be_known_whether_a_user_is_being_forgotten_nothing_is_recalled() -> None:
    class Failing(HistoryInMemory):
        async def is_forgetting(self, user_id: UserId) -> bool:
            raise HistoryUnavailable

    async with staged(history=Failing(), memory=await knowing("Ann's dog is called Bello")) as stage:
        ended = await stage.ended(message("What is my dog called?"))

        assert ended.end.error is None
        assert "What is my dog called?" == asked(stage)
        assert 1 == stage.recollection.failures
        assert ["asking whether a user is being forgotten"] == [doing for doing, _ in stage.observer.failures]


async def test_a_turn_that_is_stopped_while_memory_is_asked_ends_at_once() -> None:
    memory = await knowing()
    memory.gate = anyio.Event()
    async with staged(memory=memory) as stage:
        begun = await stage.send(message())
        await until(lambda: "recall" in memory.calls)
        async with begun.reader:
            pass
        with anyio.fail_after(10):
            await begun.running.ended.wait()

        assert begun.running.turn.status == TurnStatus.INTERRUPTED
        assert [] == stage.llm.asked


async def test_while_a_user_is_being_forgotten_nothing_is_recalled() -> None:
    memory = await knowing("Ann's dog is called Bello")
    memory.uncertain = 1_000
    async with staged(memory=memory) as stage:
        await stage.history.begin_forgetting(ANN)
        await stage.ended(message("What is my dog called?"))

        assert "What is my dog called?" == asked(stage)


async def test_a_completed_turn_is_remembered() -> None:
    async with staged(memory=LearningMemory()) as stage:
        await stage.ended(message("My dog is called Bello"))
        await settled(stage)

        assert ["My dog is called Bello"] == await remembered(stage)


@pytest.mark.parametrize(
    "script",
    [
        ScriptedReply(texts=(), refusal=LLMDisconnected()),
        ScriptedReply(texts=("Hel",), failure=LLMDisconnected()),
    ],
    ids=["failed", "interrupted"],
)
async def test_a_turn_that_was_not_completed_is_not_remembered(script: ScriptedReply) -> None:
    async with staged(script, memory=LearningMemory()) as stage:
        await stage.ended(message("My dog is called Bello"))

        assert OutboxCounts(0, 0, 0) == await stage.history.counts()
        assert [] == await remembered(stage)


async def test_a_memory_that_does_not_learn_is_offered_nothing() -> None:
    memory = LearningMemory()
    memory.extracts_from_turns = False
    async with staged(memory=memory) as stage:
        await stage.ended(message("My dog is called Bello"))

        assert OutboxCounts(0, 0, 0) == await stage.history.counts()
        assert "remember" not in memory.calls


async def test_the_reader_does_not_wait_for_the_remembering() -> None:
    memory = LearningMemory()
    async with staged(memory=memory) as stage:
        begun = await stage.send(message("My dog is called Bello"))
        async with begun.reader as reader:
            while not (batch := await reader.next(1)).texts:
                pass
            memory.gate = anyio.Event()
            while batch.end is None:
                batch = await reader.next(1)
        assert batch.end.error is None
        memory.gate.set()
        await settled(stage)


async def test_a_deleted_turn_is_not_put_into_the_outbox() -> None:
    history = HistoryInMemory()
    async with staged(ScriptedReply(pause=0.01), history=history, memory=LearningMemory()) as stage:
        begun = await stage.send(message(str(uuid4())))
        await history.clear(ANN, None)
        with anyio.fail_after(10):
            await begun.running.ended.wait()

        assert OutboxCounts(0, 0, 0) == await history.counts()


async def test_a_turn_whose_end_is_stored_at_the_second_attempt_is_remembered_once() -> None:
    memory = LearningMemory()
    history = FailingHistory(plans={"finish": [HistoryUnavailable()]})
    async with staged(history=history, memory=memory) as stage:
        ended = await stage.ended(message("My dog is called Bello"))
        await settled(stage)

        assert ended.end.error is None
        assert 1 == memory.calls.count("remember")


async def test_a_turn_whose_end_can_not_be_stored_is_not_remembered() -> None:
    memory = LearningMemory()
    history = FailingHistory(plans={"finish": [HistoryUnavailable() for _ in range(3)]})
    async with staged(history=history, memory=memory) as stage:
        ended = await stage.ended(message("My dog is called Bello"))

        assert "history_write_failed" == (ended.end.error and ended.end.error.code)
        assert OutboxCounts(0, 0, 0) == await history.counts()
    assert "remember" not in memory.calls


async def test_a_turn_that_runs_while_its_user_is_forgotten_leaves_nothing_behind() -> None:
    memory = LearningMemory()
    async with staged(ScriptedReply(pause=0.01), memory=memory) as stage:
        begun = await stage.send(message("My dog is called Bello"))
        assert await stage.keeper.forget(ANN)
        with anyio.fail_after(10):
            await begun.running.ended.wait()

        assert TurnStatus.COMPLETED == begun.running.turn.status
        assert OutboxCounts(0, 0, 0) == await stage.history.counts()
    assert "remember" not in memory.calls
