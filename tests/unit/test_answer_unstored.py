"""Replies outside of any conversation."""

from dataclasses import replace

import anyio
import pytest

from adapters.live_turns_in_process import LiveTurnsInProcess
from application.turns.answer_unstored import AnswerUnstored
from application.turns.reply_request import ReplyRequest
from domain.conversation import Exchange, Role
from domain.errors import MessageTooLong, ServerShuttingDown
from tests.harness.fakes import ScriptedReply
from tests.harness.script import ANN, FailingHistory, Harness, application, read, until

NOTHING_BEFORE = ReplyRequest(latest_first=())


def answering(app: Harness) -> AnswerUnstored:
    send = app.send
    return AnswerUnstored(
        LiveTurnsInProcess(retention=0, max_retained_bytes=0),
        app.runner, app.observer, send.now, send.new_turn_id, send.instructions, send.window, send.max_message_chars,
    )  # fmt: skip


async def test_the_history_is_neither_read_nor_written() -> None:
    history = FailingHistory()
    async with application(history=history, save_interval=0.01) as app:
        await anyio.sleep(0.05)
        before = list(history.calls)
        ended = await read(await answering(app)(ANN, "Hello", NOTHING_BEFORE))
        await app.until_idle()
        added = {call for call in history.calls if call not in before}

    assert "Hello, world!" == "".join(ended.deltas)
    assert not added & {"begin", "latest", "finish", "save_progress"}


async def test_a_reply_that_takes_long_is_not_taken_for_a_deleted_turn() -> None:
    async with application(ScriptedReply(pause=0.05), save_interval=0.01) as app:
        ended = await read(await answering(app)(ANN, "Hello", NOTHING_BEFORE))

    assert "stop" == ended.end.finish_reason


async def test_the_prompt_is_what_the_client_has_sent() -> None:
    request = ReplyRequest(
        latest_first=[Exchange("Q", "A")], system="Rhyme.", lead="Lost", continued="Once", max_tokens=7
    )
    async with application() as app:
        await read(await answering(app)(ANN, "Hello", request))
        await read(await answering(app)(ANN, "Hello", replace(request, as_instructed=False)))

    first, second = ([(message.role, message.text) for message in prompt] for prompt in app.llm.asked)
    assert [
        (Role.SYSTEM, "Be brief.\n\nRhyme."),
        (Role.USER, "Q"),
        (Role.ASSISTANT, "A"),
        (Role.USER, "Lost\n\nHello"),
        (Role.ASSISTANT, "Once"),
    ] == first
    assert (Role.SYSTEM, "Rhyme.") == second[0]
    assert [7, 7] == app.llm.max_tokens


async def test_it_ends_when_its_reader_leaves() -> None:
    async with application(ScriptedReply(deltas=("One",), hangs=True)) as app:
        async with await answering(app)(ANN, "Hello", NOTHING_BEFORE) as handle:
            await handle.next(5)
        await until(lambda: not app.llm.open)

    assert "client_disconnected" == app.observer.ended[0].turn.reason


async def test_a_shutdown_ends_it_and_refuses_others() -> None:
    async with application(ScriptedReply(deltas=("One",), hangs=True)) as app:
        answer = answering(app)
        handle = await answer(ANN, "Hello", NOTHING_BEFORE)
        await handle.next(5)
        await app.runner.drain(grace=0)
        ended = await read(handle)
        with pytest.raises(ServerShuttingDown):
            await answer(ANN, "Hello", NOTHING_BEFORE)

    assert "server_shutting_down" == ended.code


async def test_a_message_that_is_too_long_is_refused() -> None:
    async with application() as app:
        with pytest.raises(MessageTooLong):
            await answering(app)(ANN, "x" * 101, NOTHING_BEFORE)

    assert [] == app.llm.asked
