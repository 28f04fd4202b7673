"""Clients of several workers, which record what they do and see for the history checker."""

import asyncio
import itertools
from collections import Counter
from time import monotonic
from typing import Any, NamedTuple

import httpx2

from tests.harness.chat_stream import ChatStream
from tests.harness.cluster import Cluster, Worker
from tests.harness.exchange import history
from tests.harness.history_checker import check
from tests.harness.observations import Deletion, Observations, Outcome, Prompt, Read, Sent, Stored

MAX_SECONDS = 60
"""Seconds after which a client gives up to repeat a request, or to wait until all turns have ended."""
REFUSALS = {"turn_in_progress", "history_unavailable", "server_shutting_down", "live_turns_unavailable"}
"""Codes of problems that, without the id of a turn, say that the message was not accepted."""
RETRY_SECONDS = 0.05


class Answer(NamedTuple):
    """What a response tells of a message. `ended` says that its turn has ended, so that asking again tells no more."""

    outcome: Outcome
    reply: str = ""
    ended: bool = False


class Workload:
    """What all clients of a cluster have done and seen."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.observed = Observations()
        self.answers = Counter[str]()
        """How often each kind of response was received."""
        self.problems: list[str] = []
        """Violations that are found at once, in words."""
        self._names = itertools.count()
        self._known: dict[Stored, Stored] = {}

    def client(self, user_id: str) -> "Client":
        return Client(self, user_id, f"c{next(self._names)}")

    def problem(self, text: str) -> None:
        self.problems.append(text)

    async def read(self, user_id: str, worker: Worker) -> Read | None:
        """Read a user's history; None if that failed."""
        started = monotonic()
        if not worker.is_running:
            return None
        try:
            turns = await history(worker.client, user_id)
        except (httpx2.HTTPError, RuntimeError) as error:  # the latter if a restart has closed the client
            self.answers[f"read: {type(error).__name__}"] += 1
            return None
        self.answers["read"] += 1
        stored = [self._stored(turn) for turn in turns]
        read = Read(user_id, started, monotonic(), stored, worker.name)
        self.observed.reads.append(read)
        return read

    async def finish(self, *, wait_for_lost: bool = False) -> list[str]:
        """Wait until all turns have ended, read every history at every worker, and return all violations.

        With `wait_for_lost`, the histories are read again when no turn of unknown outcome may appear any more.
        """
        users = sorted({sent.user_id for sent in self.observed.sent})
        grace = self.cluster.lease + 5
        for user_id in users:
            await self.until_ended(user_id)
        if wait_for_lost:
            unknown = [sent.ended for sent in self.observed.sent if sent.outcome is Outcome.INFO]
            await asyncio.sleep(max(0, max(unknown, default=0) + grace + 0.1 - monotonic()))
            for user_id in users:
                await self.until_ended(user_id)
        requests = self.cluster.upstream.requests
        self.observed.prompts = [
            Prompt(request.received_at, [(part["role"], part["content"]) for part in request.body["messages"]])
            for request in requests
        ]
        found = await asyncio.to_thread(check, self.observed, reply_of=self.cluster.reply_of, grace=grace)
        return [*self.problems, *map(str, found)]

    async def until_ended(self, user_id: str) -> None:
        """Read a user's history at every worker until all turns have ended."""
        for worker in self.cluster.workers:
            async with asyncio.timeout(MAX_SECONDS):
                while True:
                    read = await self.read(user_id, worker)
                    if read and not any(turn.status == "in_progress" for turn in read.turns):
                        break
                    await asyncio.sleep(0.1)

    def _stored(self, turn: dict[str, Any]) -> Stored:
        stored = Stored(
            turn["id"],
            turn["conversation_id"],
            turn["user_message"],
            turn["assistant_response"],
            turn["status"],
            turn["reason"],
        )
        return self._known.setdefault(stored, stored)  # the same object in all reads, which saves memory


class Client:
    """One client of a user. It asks any worker, and repeats requests that were refused or got no response."""

    def __init__(self, workload: Workload, user_id: str, name: str) -> None:
        self.user_id = user_id
        self.name = name
        self.workload = workload
        self.cluster = workload.cluster
        self._numbers = itertools.count(1)

    def new_message(self) -> str:
        return f"{self.user_id}-{self.name}-{next(self._numbers)}"

    async def send(self, conversation_id: str = "default", *, keyed: bool = False) -> Sent:
        """Send a new message, and record what became of it.

        With a key, the request is repeated until the turn has ended. Without one, a new message is sent after each one
        that was refused.
        """
        message, started = self.new_message(), monotonic()
        give_up_at = started + MAX_SECONDS
        worker = self.cluster.pick()
        while True:
            while not worker.is_running:
                await asyncio.sleep(RETRY_SECONDS)
                worker = self.cluster.pick()
            answer = await self.attempt(worker, message, conversation_id, keyed=keyed)
            if answer.ended or monotonic() > give_up_at or (answer.outcome is Outcome.INFO and not keyed):
                return self.record(message, conversation_id, started, answer, worker, keyed=keyed)
            if not keyed:
                self.record(message, conversation_id, started, answer, worker)
                message, started = self.new_message(), monotonic()
            await asyncio.sleep(self.cluster.chance.uniform(0, RETRY_SECONDS))
            worker = self.cluster.pick(other_than=worker)

    def record(
        self, message: str, conversation_id: str, started: float, answer: Answer, worker: Worker, *, keyed: bool = False
    ) -> Sent:
        # With a key, an earlier request may have been accepted.
        outcome = Outcome.INFO if keyed and answer.outcome is Outcome.FAIL else answer.outcome
        sent = Sent(
            message,
            self.user_id,
            conversation_id,
            started,
            monotonic(),
            outcome,
            answer.reply,
            keyed,
            self.name,
            worker.name,
        )
        self.workload.observed.sent.append(sent)
        return sent

    async def attempt(self, worker: Worker, message: str, conversation_id: str, *, keyed: bool = False) -> Answer:
        """Send a message once."""
        text, answer = await self._attempt(worker, message, conversation_id, keyed=keyed)
        self.workload.answers[text] += 1
        return answer

    async def _attempt(
        self, worker: Worker, message: str, conversation_id: str, *, keyed: bool = False
    ) -> tuple[str, Answer]:
        body = {"user_id": self.user_id, "message": message, "conversation_id": conversation_id}
        headers = {"Idempotency-Key": message} if keyed else {}
        try:
            response = await worker.client.post("/api/chat", json=body, headers=headers)
        except httpx2.ConnectError:
            return "ConnectError", Answer(Outcome.FAIL)
        except httpx2.TransportError as error:
            return type(error).__name__, Answer(Outcome.INFO)
        if response.status_code != 200:
            problem = response.json()
            refused = problem["code"] in REFUSALS and "turn_id" not in problem
            outcome = Outcome.FAIL if refused else Outcome.INFO
            # Only what is retryable is repeated: repeating the message of a deleted turn would store it again.
            return f"{response.status_code} {problem['code']}", Answer(outcome, ended=not problem["retryable"])
        stream = ChatStream.of(response.content)
        if stream.data[-1:] != ["[DONE]"]:
            return "200, cut", Answer(Outcome.INFO)
        if "error" in stream.last:
            return f"200, error {stream.last['error']['code']}", Answer(Outcome.INFO, ended=True)
        return "200, done", Answer(Outcome.OK, stream.text, ended=True)

    async def delete(self, conversation_id: str | None = None) -> Deletion:
        """Delete the user's history, or one conversation, once."""
        worker, started = self.cluster.pick(), monotonic()
        query = {"conversation_id": conversation_id} if conversation_id else {}
        try:
            response = await worker.client.delete(f"/api/chat/history/{self.user_id}", params=query)
            outcome = Outcome.OK if response.status_code == 200 else Outcome.INFO
        except httpx2.TransportError:
            outcome = Outcome.INFO
        self.workload.answers[f"delete: {outcome}"] += 1
        deletion = Deletion(self.user_id, conversation_id, started, monotonic(), outcome, worker.name)
        self.workload.observed.deletions.append(deletion)
        return deletion

    async def read(self) -> Read | None:
        return await self.workload.read(self.user_id, self.cluster.pick())
