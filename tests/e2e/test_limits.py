"""The limits on connections as the command enforces them, on its own event loop."""

from pathlib import Path

import httpx2

from tests.harness.black_hole import receive_no_more
from tests.harness.chat import eventually
from tests.harness.malformed_requests import GET, POST
from tests.harness.raw_client import RawClient
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import service_process


async def test_clients_that_are_silent_slow_too_large_or_gone_are_disconnected(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as upstream,
        service_process(
            directory=tmp_path,
            OPENAI_BASE_URL=upstream.base_url,
            OPENAI_MODEL="hang-3",
            HEAD_TIMEOUT="0.5",
            BODY_TIMEOUT="0.5",
            SEND_TIMEOUT="1",
            COMMENT_INTERVAL="0.3",
        ) as service,
    ):
        async with RawClient(service.url) as client:
            assert await client.closed() == b""
        for sent, status in [
            (GET, 408),
            (POST + b"Content-Length: 9\r\n\r\n", 408),
            (GET + b"X: " + b"x" * 1_000_000, 431),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
        ]:
            async with RawClient(service.url) as client:
                client.send(sent)
                assert await client.head() == status
                await client.rest()
                assert await client.closed() == b""
        async with RawClient(service.url) as client, httpx2.AsyncClient(base_url=service.url) as other:
            client.post("/api/chat", {"user_id": "user", "message": "Hello"})
            await client.head()
            await client.events(1)
            receive_no_more(client.socket)

            async def ended() -> bool:
                (turn,) = (await other.get("/api/chat/history/user")).json()["history"]
                return (turn["status"], turn["reason"]) == ("interrupted", "client_disconnected")

            await eventually(ended)
