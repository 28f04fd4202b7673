"""A client that reads its reply twice, at two workers, and continues at another one when it loses a connection.

It accepts nothing but what a stop of a worker may do to it: a refusal, a lost connection, and the end of the reply with
`server_shutting_down`.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import httpx2

from tests.harness.chat_stream import ChatStream
from tests.harness.cluster import Worker
from tests.harness.observations import Outcome, Sent
from tests.harness.workload import MAX_SECONDS, RETRY_SECONDS, Answer, Client

SHUTDOWN = "server_shutting_down"
LAST_EVENT = b"data: [DONE]\n\n"
"""Its end, since it begins with a number."""


async def send_and_follow(client: Client, *, keyed: bool = False) -> Sent:
    """Send a new message, follow its turn at another worker as well, and record what became of it.

    A quarter of the messages belong to a conversation that all clients of the user share, the others to one of its own.
    With a key, the request is repeated until the turn has ended. Without one, it is sent once.
    """
    message, started = client.new_message(), monotonic()
    conversation_id = "default" if client.cluster.chance.random() < 0.25 else client.name
    sender, follower = Reader(client, message), Reader(client, message)
    async with asyncio.timeout(MAX_SECONDS), asyncio.TaskGroup() as group:

        def follow() -> None:
            follower.worker = sender.worker  # it chooses another one
            group.create_task(follower.follow(sender.turn_id))

        answer = await sender.send(conversation_id, follow, keyed=keyed)
    if sender.turn_id and follower.received != sender.received:
        client.workload.problem(f"two readers of {message} received {sender.received!r} and {follower.received!r}")
    return client.record(message, conversation_id, started, answer, sender.worker, keyed=keyed)


class Reader:
    """Reads the stream of a turn. `received` are its complete events so far, without comments."""

    def __init__(self, client: Client, message: str) -> None:
        self.worker: Worker = client.cluster.pick()
        self.turn_id = ""
        self.received = b""
        self._client = client
        self._message = message
        self._has_ended = False

    async def send(self, conversation_id: str, on_turn: Callable[[], None], *, keyed: bool) -> Answer:
        """Send the message and read its reply to the end. `on_turn` is called when the id of the turn is known."""
        body = {"user_id": self._client.user_id, "message": self._message, "conversation_id": conversation_id}
        headers = {"Idempotency-Key": self._message} if keyed else {}
        while not self.turn_id:
            await self._choose_worker()
            outcome = await self._read(on_turn, method="POST", url="/api/chat", json=body, headers=headers)
            if not self.turn_id and not keyed:
                return Answer(outcome, ended=self._has_ended)
        return await self.follow(self.turn_id)

    async def follow(self, turn_id: str) -> Answer:
        """Read the rest of a turn, at one worker after the other if necessary."""
        self.turn_id = turn_id
        while not self.received.endswith(LAST_EVENT):
            await self._choose_worker()
            headers = {"Last-Event-ID": str(self.received.count(b"\n\n"))}
            await self._read(method="GET", url=f"/api/chat/turns/{turn_id}/stream", headers=headers)
        return self._answer()

    async def _choose_worker(self) -> None:
        self.worker = self._client.cluster.pick(other_than=self.worker)
        while not self.worker.is_running:
            await asyncio.sleep(RETRY_SECONDS)
            self.worker = self._client.cluster.pick(other_than=self.worker)

    async def _read(self, on_turn: Callable[[], None] = lambda: None, **request: Any) -> Outcome:
        """Send a request and read the events of the response. Returns FAIL if the service has refused the request."""
        outcome, unread = Outcome.INFO, b""
        try:
            async with self.worker.client.stream(**request) as response:
                if response.status_code == 200:
                    self.turn_id = response.headers["X-Turn-ID"]
                    on_turn()
                    async for data in response.aiter_raw():
                        *events, unread = (unread + data).replace(b": keep-alive\n", b"").split(b"\n\n")
                        self.received += b"".join(event + b"\n\n" for event in events)
                    text = "200, " + ("done" if self.received.endswith(LAST_EVENT) else "cut")
                else:
                    await response.aread()
                    text = self._refusal(response)
                    if "turn_id" in response.json():  # it was ended before the model had accepted it
                        self._has_ended = True
                    else:
                        outcome = Outcome.FAIL
        except httpx2.TransportError as error:
            text = type(error).__name__
            if isinstance(error, httpx2.ConnectError):
                outcome = Outcome.FAIL
        if not self.received.endswith(LAST_EVENT):
            await asyncio.sleep(self._client.cluster.chance.uniform(0, RETRY_SECONDS))
        self._client.workload.answers[f"{request['method']}: {text}"] += 1
        return outcome

    def _refusal(self, response: httpx2.Response) -> str:
        code = response.json()["code"]
        if (response.status_code, code, response.headers.get("Connection")) != (503, SHUTDOWN, "close"):
            raise AssertionError(f"{self._message} was refused: {response.headers} {response.text}")
        return f"{response.status_code} {code}"

    def _answer(self) -> Answer:
        stream = ChatStream.of(self.received)
        problem = self._client.workload.problem
        whole = self._client.cluster.reply_of(self._message)
        if stream.numbers != list(range(1, len(stream.numbers) + 1)) or not whole.startswith(stream.text):
            problem(f"the reply to {self._message} has gaps or repetitions: {self.received!r}")
        if "error" not in stream.last:
            return Answer(Outcome.OK, stream.text, ended=True)
        if (stream.error["code"], stream.error["retryable"]) != (SHUTDOWN, True):
            problem(f"the reply to {self._message} ended with {stream.error}")
        self._client.workload.answers[f"ended by {stream.error['code']}"] += 1
        return Answer(Outcome.INFO, ended=True)
