"""What long-term memory does in a turn, and what it never does to one."""

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


def asked(app: Harness, call: int = -1) -> str:
    """The last message that the model got to see."""
    return app.llm.asked[call][-1].text


async def remembered(app: Harness, user: UserId = ANN) -> list[str]:
    return [one.fact for one in (await app.memory.page(user, 200, None)).items]


async def settled(app: Harness) -> None:
    with anyio.fail_after(10):
        while await app.history.counts() != OutboxCounts(0, 0, 0):
            await anyio.sleep(0.001)


async def test_what_fits_the_message_is_seen_by_the_model_and_not_stored_with_the_turn() -> None:
    async with application(memory=await knowing("Ann's dog is called Bello", "Ann lives in Vienna")) as app:
        await app.complete(message("What is my dog called?"))

        [ended] = app.observer.ended
        assert "Ann's dog is called Bello" in asked(app)
        assert "Vienna" not in asked(app)
        assert asked(app).endswith("What is my dog called?")
        assert ended.turn.user_message == "What is my dog called?"
        assert ended.memories == 1


async def test_where_nothing_fits_the_message_stands_alone() -> None:
    async with application(memory=await knowing("Ann lives in Vienna")) as app:
        await app.complete(message("What is my dog called?"))

        assert "What is my dog called?" == asked(app)
        assert app.observer.ended[0].memories == 0


async def test_nobody_elses_memories_are_seen() -> None:
    async with application(memory=await knowing("Ann's dog is called Bello")) as app:
        await app.complete(message("What is my dog called?", user=BOB))

        assert NOTES not in asked(app)


async def test_a_turn_that_keeps_out_of_memory_recalls_nothing_and_is_not_remembered() -> None:
    async with application(memory=await knowing("Ann's dog is called Bello")) as app:
        await app.complete(message("What is my dog called?", use_memory=False))

        assert "What is my dog called?" == asked(app)
        assert app.observer.ended[0].memories is None
        assert OutboxCounts(0, 0, 0) == await app.history.counts()


@pytest.mark.parametrize("error", [MemoryUnavailable(), MemoryLeaked()])
@pytest.mark.row("M1")
async def test_a_memory_that_fails_costs_the_memories_only(error: MemoryUnavailable) -> None:
    memory = await knowing("Ann's dog is called Bello")
    memory.plans["recall"] = [error]
    async with application(memory=memory) as app:
        ended = await app.complete(message("What is my dog called?"))

        assert (None, "Hello, world!") == (ended.code, "".join(ended.deltas))
        assert "What is my dog called?" == asked(app)
        assert (1, None) == (app.recall.failures, app.observer.ended[0].memories)


async def test_a_history_that_fails_beside_the_recall_fails_as_ever() -> None:
    error = HistoryUnavailable()
    history = FailingHistory(plans={"latest": [error]})
    async with application(history=history, memory=await knowing("likes tea")) as app:
        ended = await app.complete(message())

        assert "history_unavailable" == ended.code


async def test_where_it_can_not_be_known_whether_a_user_is_being_forgotten_nothing_is_recalled() -> None:
    class Failing(HistoryInMemory):
        async def forget_attempts(self, user_id: UserId) -> int | None:
            raise HistoryUnavailable

    async with application(history=Failing(), memory=await knowing("Ann's dog is called Bello")) as app:
        ended = await app.complete(message("What is my dog called?"))

        assert ended.code is None
        assert "What is my dog called?" == asked(app)
        assert 1 == app.recall.failures
        assert [Where.CHECKING_FORGETTING] == [where for where, _ in app.observer.failures]


async def test_a_turn_that_is_stopped_while_memory_is_asked_ends_at_once() -> None:
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


async def test_while_a_user_is_being_forgotten_nothing_is_recalled() -> None:
    memory = await knowing("Ann's dog is called Bello")
    memory.uncertain = 1_000
    async with application(memory=memory) as app:
        await app.history.begin_forgetting(ANN)
        await app.complete(message("What is my dog called?"))

        assert "What is my dog called?" == asked(app)


async def test_a_completed_turn_is_remembered() -> None:
    async with application(memory=LearningMemory()) as app:
        await app.complete(message("My dog is called Bello"))
        await settled(app)

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


async def test_a_memory_that_does_not_learn_is_offered_nothing() -> None:
    memory = LearningMemory()
    memory.extracts_from_turns = False
    async with application(memory=memory) as app:
        await app.complete(message("My dog is called Bello"))

        assert OutboxCounts(0, 0, 0) == await app.history.counts()
        assert "remember" not in memory.calls


async def test_the_reader_does_not_wait_for_the_remembering() -> None:
    memory = LearningMemory()
    async with application(memory=memory) as app:
        handle = await app.send(message("My dog is called Bello"))
        await app.until_replied(handle)
        memory.gate = anyio.Event()
        assert (await read(handle)).code is None
        memory.gate.set()
        await settled(app)


async def test_a_deleted_turn_is_not_put_into_the_outbox() -> None:
    history = HistoryInMemory()
    async with application(ScriptedReply(pause=0.01), history=history, memory=LearningMemory()) as app:
        await app.send(message(str(uuid4())))
        await history.clear(ANN, None)
        await app.until_idle()

        assert OutboxCounts(0, 0, 0) == await history.counts()


async def test_a_turn_whose_end_is_stored_at_the_second_attempt_is_remembered_once() -> None:
    memory = LearningMemory()
    history = FailingHistory(plans={"finish": [HistoryUnavailable()]})
    async with application(history=history, memory=memory, store_delays=NO_DELAYS) as app:
        ended = await app.complete(message("My dog is called Bello"))
        await settled(app)

        assert ended.code is None
        assert 1 == memory.calls.count("remember")


async def test_a_turn_whose_end_can_not_be_stored_is_not_remembered() -> None:
    memory = LearningMemory()
    history = FailingHistory(plans={"finish": [HistoryUnavailable() for _ in range(3)]})
    async with application(history=history, memory=memory, store_delays=NO_DELAYS) as app:
        ended = await app.complete(message("My dog is called Bello"))

        assert "history_write_failed" == ended.code
        assert OutboxCounts(0, 0, 0) == await history.counts()
    assert "remember" not in memory.calls


async def test_a_turn_that_runs_while_its_user_is_forgotten_leaves_nothing_behind() -> None:
    memory = LearningMemory()
    async with application(ScriptedReply(pause=0.01), memory=memory) as app:
        handle = await app.send(message("My dog is called Bello"))
        assert await app.forgetting.forget(ANN)
        await app.until_idle()

        assert TurnStatus.COMPLETED == (await app.stored(handle.turn.id)).status
        assert OutboxCounts(0, 0, 0) == await app.history.counts()
    assert "remember" not in memory.calls
