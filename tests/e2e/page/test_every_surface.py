"""One turn, every view: the chat page shows and stops a turn that a client of the OpenAI format has begun."""

import asyncio

from playwright.async_api import Browser, expect

from tests.harness.chat_page import USER, ChatPage
from tests.harness.completions import complete
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import running_service


async def test_a_turn_of_the_openai_format_is_followed_and_stopped_from_the_page(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("One", " two"), hangs=True))
    async with running_service({"llm": llm}) as service:
        sending = asyncio.create_task(complete(service, [("user", "Count")], "numbers", user=USER))
        while not (history := (await service.client.get(f"/api/chat/history/{USER}")).json()["history"]):
            await asyncio.sleep(0.01)
        (turn,) = history
        async with service.client.stream("GET", f"/api/chat/turns/{turn['id']}/stream") as native:
            chat = await ChatPage.open(browser, service.url, conversation="numbers")
            await expect(chat.answers).to_have_text("One two")
            await chat.stop()
            await chat.until_idle()
            followed = (await native.aread()).decode()
        answer = await sending

    assert (turn["id"], "One two", "cancelled") == (answer.turn_id, answer.text, answer.code)
    assert '"content": "One"' in followed
    assert '"code": "cancelled"' in followed
    assert await chat.texts() == [("Count", "One two")]
