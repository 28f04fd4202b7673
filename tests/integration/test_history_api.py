"""A user's turns and conversations over HTTP: paging, listing, deleting."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.chat import (
    HANGS,
    history,
    last_turn,
    post,
    serving,
    streaming,
)
from tests.harness.servers import Service

pytestmark = pytest.mark.server

SIMPLE = "/api/chat/simple"


async def test_a_turn_has_the_documented_keys_in_order() -> None:
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


async def test_a_message_is_stored_unchanged() -> None:
    text = "  <b>Grüße</b>\r\n\t👋 \u2028 "
    async with serving() as (service, _):
        await post(service, message=text)

        assert (await last_turn(service))["user_message"] == text


async def test_pages_lead_from_the_newest_turns_to_the_oldest() -> None:
    async with serving() as (service, _):
        for number in range(5):
            await post(service, SIMPLE, message=str(number))
        pages: list[list[str]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await history(service, "?limit=2" + (f"&cursor={cursor}" if cursor else ""))
            assert page["count"] == len(page["history"])
            pages.append([turn["user_message"] for turn in page["history"]])
            cursor = page["next_cursor"]

        assert pages == [["3", "4"], ["1", "2"], ["0"]]


async def test_the_history_can_be_limited_to_one_conversation() -> None:
    async with serving() as (service, _):
        for number, conversation in enumerate(["work", "home", "work"]):
            await post(service, message=str(number), conversation_id=conversation)
        found = {
            query: [turn["user_message"] for turn in (await history(service, query))["history"]]
            for query in ("", "?conversation_id=work", "?conversation_id=home", "?conversation_id=default")
        }

        assert list(found.values()) == [["0", "1", "2"], ["0", "2"], ["1"], []]


async def test_conversations_are_listed_most_recently_used_first() -> None:
    async with serving() as (service, _):
        for conversation in ("a", "b", "c", "a"):
            await post(service, conversation_id=conversation)
        first = (await service.client.get("/api/chat/conversations/user123?limit=2")).json()
        cursor = first["next_cursor"]
        second = (await service.client.get(f"/api/chat/conversations/user123?limit=2&cursor={cursor}")).json()

        assert list(first) == ["user_id", "conversations", "count", "next_cursor"]
        assert list(first["conversations"][0]) == ["id", "created_at", "updated_at", "turns", "title"]
        listed = [(item["id"], item["turns"]) for page in (first, second) for item in page["conversations"]]
        assert listed == [("a", 2), ("c", 1), ("b", 1)]
        assert (first["count"], second["count"], second["next_cursor"]) == (2, 1, None)


async def test_an_unknown_user_has_no_conversations() -> None:
    async with serving() as (service, _):
        found = (await service.client.get("/api/chat/conversations/user123")).json()

        assert found == {"user_id": "user123", "conversations": [], "count": 0, "next_cursor": None}


async def titles(service: Service) -> list[str]:
    found = (await service.client.get("/api/chat/conversations/user123")).json()
    return [conversation["title"] for conversation in found["conversations"]]


async def rename(service: Service, title: Any, conversation: str = "default") -> httpx2.Response:
    return await service.client.patch(f"/api/chat/conversations/user123/{conversation}", json={"title": title})


async def test_a_conversation_is_titled_by_its_first_message() -> None:
    async with serving() as (service, _):
        for message in (" Tell me\nabout trees. " + "x" * 100, "And their leaves?"):
            await post(service, message=message)

        assert ["Tell me about trees. " + "x" * 59] == await titles(service)


async def test_a_conversation_can_be_renamed_and_gets_its_first_title_back_by_a_blank_one() -> None:
    async with serving() as (service, _):
        await post(service, message="Hello")
        names = ((" Trees 🌳\n and leaves ", "Trees 🌳 and leaves"), ("x" * 200, "x" * 200), (" ", "Hello"))
        for title, expected in names:
            response = await rename(service, title)
            (listed,) = (await service.client.get("/api/chat/conversations/user123")).json()["conversations"]
            assert (200, listed, expected) == (response.status_code, response.json(), listed["title"])


@pytest.mark.parametrize("title", ["x" * 201, "a\x00b", None, 1, ["x"]])
async def test_a_title_that_cannot_be_set_changes_nothing(title: Any) -> None:
    async with serving() as (service, _):
        await post(service, message="Hello")
        response = await rename(service, title)

        assert (422, "invalid_request") == (response.status_code, response.json()["code"])
        assert ["Hello"] == await titles(service)


async def test_a_conversation_that_is_not_there_cannot_be_renamed() -> None:
    async with serving() as (service, _):
        await post(service, message="Hello")
        response = await rename(service, "Trees", "other")

        assert (404, "conversation_not_found") == (response.status_code, response.json()["code"])
        assert ["Hello"] == await titles(service)


async def test_deleting_a_conversation_deletes_its_title() -> None:
    async with serving() as (service, _):
        for message in ("Hello", "Hello again"):
            await post(service, message=message)
            await rename(service, "Trees")
            await service.client.delete("/api/chat/history/user123?conversation_id=default")
        await post(service, message="Once more")

        assert ["Once more"] == await titles(service)


async def test_deleting_the_history_twice_deletes_nothing_the_second_time() -> None:
    async with serving() as (service, _):
        turn_ids = [(await post(service)).headers["X-Turn-ID"] for _ in range(2)]
        responses = [await service.client.delete("/api/chat/history/user123") for _ in range(2)]

        assert [response.json() for response in responses] == [
            {"user_id": "user123", "deleted": 2},
            {"user_id": "user123", "deleted": 0},
        ]
        assert (await history(service))["count"] == 0
        for turn_id in turn_ids:
            for path in (f"/api/chat/turns/{turn_id}", f"/api/chat/turns/{turn_id}/stream"):
                assert (await service.client.get(path)).status_code == 404


async def test_a_single_conversation_can_be_deleted() -> None:
    async with serving() as (service, _):
        for conversation in ("work", "home"):
            await post(service, conversation_id=conversation)
        response = await service.client.delete("/api/chat/history/user123?conversation_id=work")

        assert response.json() == {"user_id": "user123", "deleted": 1}
        assert [turn["conversation_id"] for turn in (await history(service))["history"]] == ["home"]


async def test_deleting_the_history_does_not_affect_other_users() -> None:
    async with serving() as (service, _):
        await post(service, user_id="ben")
        await post(service)
        await service.client.delete("/api/chat/history/user123")

        assert (await history(service, user="ben"))["count"] == 1


async def test_deleting_the_history_cancels_the_running_turn_and_discards_its_text() -> None:
    async with serving(HANGS) as (service, llm), streaming(service) as stream:
        await stream.until(b'"lo"')
        await service.client.delete("/api/chat/history/user123")
        await stream.until(b"[DONE]")

        events = bytes(stream.received).split(b"\n\n")
        assert events[2].startswith(b'id: 3\ndata: {"content": "", "done": true, "error": {"code": "cancelled"')
        assert events[3:] == [b"id: 4\ndata: [DONE]", b""]
        assert (await history(service))["count"] == 0
        assert llm.open == 0


async def test_a_client_that_rejoined_also_receives_the_cancellation_of_a_deleted_turn() -> None:
    async with serving(HANGS) as (service, _), streaming(service) as first:
        await first.until(b'"lo"')
        path = f"/api/chat/turns/{first.turn_id}/stream?after=1"
        async with streaming(service, path) as second:
            await second.until(b'"lo"')
            await service.client.delete("/api/chat/history/user123")
            await second.until(b"[DONE]")

            assert b'id: 3\ndata: {"content": "", "done": true, "error": {"code": "cancelled"' in second.received


async def test_a_turn_after_a_deletion_starts_with_an_empty_prompt() -> None:
    async with serving() as (service, llm):
        await post(service)
        await service.client.delete("/api/chat/history/user123")
        await post(service, message="Again")

        assert [message.text for message in llm.asked[1]][1:] == ["Again"]


@pytest.mark.parametrize("backend", ["in_memory", "sql"])
@pytest.mark.row("S31")
async def test_a_cursor_from_before_a_deletion_shows_no_newer_turns(backend: str, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/chat.db"
    async with serving(history_backend=backend, database_url=database) as (service, _):
        for number in range(3):
            await post(service, SIMPLE, message=f"old {number}")
        cursor = (await history(service, "?limit=1"))["next_cursor"]
        await service.client.delete("/api/chat/history/user123")
        for number in range(3):
            await post(service, SIMPLE, message=f"new {number}")

        assert (await history(service, f"?cursor={cursor}"))["history"] == []
        assert (await history(service))["count"] == 3
