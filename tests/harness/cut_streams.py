"""A client that leaves its stream again and again, and continues it at another worker after the last event."""

import json
from collections.abc import Sequence
from time import monotonic
from typing import Any

import httpx2

from tests.harness.cluster import Cluster
from tests.harness.history_violations import difference
from tests.harness.observations import Outcome
from tests.harness.workload import Answer, Client


async def receive_with_cuts(client: Client, conversation_id: str, cuts: Sequence[int]) -> None:
    """Receive a reply, leave after each of these numbers of events, and continue elsewhere each time."""
    message, worker, started = client.new_message(), client.cluster.pick(), monotonic()
    body = {
        "user_id": client.user_id,
        "message": message,
        "conversation_id": conversation_id,
        "on_disconnect": "continue",
    }
    expected = wire_of(client.cluster, message)
    last = len(expected)
    received, turn_id = b"", ""
    for cut in [*sorted(cuts), last]:
        seen = received.count(b"\n\n")
        arguments: dict[str, Any] = {"method": "POST", "url": "/api/chat", "json": body}
        if turn_id:
            worker = client.cluster.pick(other_than=worker)
            headers = {"Last-Event-ID": str(seen)}
            arguments = {"method": "GET", "url": f"/api/chat/turns/{turn_id}/stream", "headers": headers}
        async with worker.client.stream(**arguments) as response:
            client.workload.answers[f"{arguments['method']} {response.status_code}"] += 1
            if response.status_code != 200:
                text = (await response.aread()).decode()
                client.workload.problem(f"{message} after {seen} events: {response.status_code} {text}")
                break
            turn_id = response.headers["X-Turn-ID"]
            received += await _events(response, cut - seen)
    whole = b"".join(expected)
    if received != whole:
        client.workload.problem(f"{message} was cut at {sorted(cuts)}: {_different(received, whole)}")
    replay = await client.cluster.pick().client.get(f"/api/chat/turns/{turn_id}/stream")
    if (replayed := replay.content.replace(b": keep-alive\n", b"")) != whole:
        client.workload.problem(f"{message} is replayed otherwise: {_different(replayed, whole)}")
    answer = Answer(Outcome.OK, client.cluster.reply_of(message)) if received == whole else Answer(Outcome.INFO)
    client.record(message, conversation_id, started, answer, worker)


def wire_of(cluster: Cluster, message: str) -> list[bytes]:
    """Return the events of the stream of a reply."""
    chunks: list[dict[str, Any]] = [{"content": d, "done": False} for d in cluster.deltas_of(message)]
    data = [*map(json.dumps, [*chunks, {"content": "", "done": True}]), "[DONE]"]
    return [f"id: {number}\ndata: {text}\n\n".encode() for number, text in enumerate(data, 1)]


async def _events(response: httpx2.Response, count: int) -> bytes:
    """Return the next `count` events, or fewer if the stream ends before. What follows them is lost."""
    received = b""
    async for data in response.aiter_raw():
        received += data
        if received.count(b"\n\n") >= count:
            break
    events = received.replace(b": keep-alive\n", b"").split(b"\n\n")[:-1]
    return b"".join(event + b"\n\n" for event in events[:count])


def _different(received: bytes, expected: bytes) -> str:
    """Show the first events in which two streams differ, in the order of the arguments."""
    return difference(received.split(b"\n\n"), expected.split(b"\n\n"))
