"""A user's turns and conversations over HTTP: pages, listings, deletion."""

import re

import pytest

from tests.harness.chat import (
    HANGS,
    history,
    last_turn,
    post,
    serving,
    streaming,
)

pytestmark = pytest.mark.server


async def test_the_history_has_the_documented_keys_first() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        found = await history(service)

        assert list(found) == ["user_id", "history", "count", "next_cursor"]
        assert found["history"] == [
            {
                "timestamp": found["history"][0]["timestamp"],
                "user_message": "Hello, how are you today?",
                "assistant_response": "Hello, world!",
                "id": turn_id,
                "conversation_id": "default",
                "status": "completed",
                "reason": None,
            }
        ]
        assert list(found["history"][0])[:3] == ["timestamp", "user_message", "assistant_response"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["history"][0]["timestamp"])


async def test_an_unknown_user_has_an_empty_history() -> None:
    async with serving() as (service, _):
        assert await history(service) == {"user_id": "user123", "history": [], "count": 0, "next_cursor": None}


async def test_a_message_is_kept_as_it_was_sent() -> None:
    text = "  <b>Grüße</b>\r\n\t👋 \u2028 "
    async with serving() as (service, _):
        await post(service, message=text)

        assert (await last_turn(service))["user_message"] == text


async def test_a_page_is_the_newest_turns_oldest_first_and_leads_to_the_older_ones() -> None:
    async with serving() as (service, _):
        for number in range(5):
            await post(service, "/api/chat/simple", message=str(number))
        pages: list[list[str]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await history(service, "?limit=2" + (f"&cursor={cursor}" if cursor else ""))
            assert page["count"] == len(page["history"])
            pages.append([turn["user_message"] for turn in page["history"]])
            cursor = page["next_cursor"]

        assert pages == [["3", "4"], ["1", "2"], ["0"]]


async def test_a_page_can_be_of_one_conversation_or_of_all() -> None:
    async with serving() as (service, _):
        for number, conversation in enumerate(["work", "home", "work"]):
            await post(service, message=str(number), conversation_id=conversation)
        found = {
            query: [turn["user_message"] for turn in (await history(service, query))["history"]]
            for query in ("", "?conversation_id=work", "?conversation_id=home", "?conversation_id=default")
        }

        assert list(found.values()) == [["0", "1", "2"], ["0", "2"], ["1"], []]


async def test_conversations_are_listed_with_the_latest_first() -> None:
    async with serving() as (service, _):
        for conversation in ("a", "b", "c", "a"):
            await post(service, conversation_id=conversation)
        first = (await service.client.get("/api/chat/conversations/user123?limit=2")).json()
        cursor = first["next_cursor"]
        second = (await service.client.get(f"/api/chat/conversations/user123?limit=2&cursor={cursor}")).json()

        assert list(first) == ["user_id", "conversations", "count", "next_cursor"]
        assert list(first["conversations"][0]) == ["id", "created_at", "updated_at", "turns"]
        listed = [(one["id"], one["turns"]) for page in (first, second) for one in page["conversations"]]
        assert listed == [("a", 2), ("c", 1), ("b", 1)]
        assert (first["count"], second["count"], second["next_cursor"]) == (2, 1, None)


async def test_an_unknown_user_has_no_conversations() -> None:
    async with serving() as (service, _):
        found = (await service.client.get("/api/chat/conversations/user123")).json()

        assert found == {"user_id": "user123", "conversations": [], "count": 0, "next_cursor": None}


async def test_a_deleted_history_is_gone_and_deleting_it_again_finds_nothing() -> None:
    async with serving() as (service, _):
        turn_ids = [(await post(service)).headers["X-Turn-ID"] for _ in range(2)]
        answers = [await service.client.delete("/api/chat/history/user123") for _ in range(2)]

        assert [answer.json() for answer in answers] == [
            {"user_id": "user123", "deleted": 2},
            {"user_id": "user123", "deleted": 0},
        ]
        assert (await history(service))["count"] == 0
        for turn_id in turn_ids:
            for path in (f"/api/chat/turns/{turn_id}", f"/api/chat/turns/{turn_id}/stream"):
                assert (await service.client.get(path)).status_code == 404


async def test_one_conversation_can_be_deleted_alone() -> None:
    async with serving() as (service, _):
        for conversation in ("work", "home"):
            await post(service, conversation_id=conversation)
        answer = await service.client.delete("/api/chat/history/user123?conversation_id=work")

        assert answer.json() == {"user_id": "user123", "deleted": 1}
        assert [turn["conversation_id"] for turn in (await history(service))["history"]] == ["home"]


async def test_a_deletion_leaves_other_users_alone() -> None:
    async with serving() as (service, _):
        await post(service, user_id="ben")
        await post(service)
        await service.client.delete("/api/chat/history/user123")

        assert (await history(service, user="ben"))["count"] == 1


async def test_a_deletion_ends_the_running_turn_as_cancelled_and_nothing_comes_back() -> None:
    async with serving(HANGS) as (service, llm), streaming(service) as stream:
        await stream.until(b'"lo"')
        await service.client.delete("/api/chat/history/user123")
        await stream.until(b"[DONE]")

        events = bytes(stream.received).split(b"\n\n")
        assert events[2].startswith(b'id: 3\ndata: {"content": "", "done": true, "error": {"code": "cancelled"')
        assert events[3:] == [b"id: 4\ndata: [DONE]", b""]
        assert (await history(service))["count"] == 0
        assert llm.open == 0


async def test_a_rejoined_reader_is_told_of_a_deletion_too() -> None:
    async with serving(HANGS) as (service, _), streaming(service) as first:
        await first.until(b'"lo"')
        path = f"/api/chat/turns/{first.turn_id}/stream?after=1"
        async with streaming(service, path) as second:
            await second.until(b'"lo"')
            await service.client.delete("/api/chat/history/user123")
            await second.until(b"[DONE]")

            assert b'id: 3\ndata: {"content": "", "done": true, "error": {"code": "cancelled"' in second.received


async def test_a_turn_that_was_sent_after_a_deletion_starts_an_empty_history() -> None:
    async with serving() as (service, llm):
        await post(service)
        await service.client.delete("/api/chat/history/user123")
        await post(service, message="Again")

        assert [each.text for each in llm.asked[1]][1:] == ["Again"]
