"""What clients, and faults, do to several workers. Each scenario returns its workload, to be finished by the caller."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

from tests.harness.cluster import Cluster
from tests.harness.cut_streams import receive_with_cuts, wire_of
from tests.harness.observations import Outcome, Sent
from tests.harness.postgres import Postgres
from tests.harness.rejoined_streams import SHUTDOWN, send_and_follow
from tests.harness.workload import Client, Workload

Fault = Callable[[], Awaitable[None]]


class Send(Protocol):
    async def __call__(self, client: Client, /, *, keyed: bool) -> Sent:
        """Send a message as a client, and record what became of it."""


READ_EVERY = 10
"""A client reads the history after every tenth message, on average."""


async def chat_together(cluster: Cluster, *, clients: int, turns: int) -> Workload:
    """Let several clients of one user get `turns` replies each, in two conversations."""
    workload = Workload(cluster)

    async def chat(client: Client) -> None:
        confirmed = 0
        while confirmed < turns:
            sent = await client.send("other" if cluster.chance.random() < 0.3 else "default")
            confirmed += sent.outcome is Outcome.OK
            await _read_sometimes(client)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(chat(workload.client("ann")))
    return workload


async def chat_meanwhile(cluster: Cluster, *faults: Fault, users: int, send: Send = Client.send) -> Workload:
    """Let two clients of each user chat, one of them with keys, until all faults have happened and they go on."""
    workload = Workload(cluster)
    happened_at: list[float] = []

    async def chat(client: Client, *, keyed: bool) -> None:
        sent: Sent | None = None
        while not (happened_at and sent and sent.outcome is Outcome.OK and sent.started > happened_at[0]):
            sent = await send(client, keyed=keyed)
            await _read_sometimes(client)

    async with asyncio.TaskGroup() as group:
        for number in range(users):
            for keyed in (False, True):
                group.create_task(chat(workload.client(f"user{number}"), keyed=keyed))
        for fault in faults:
            await fault()
        happened_at.append(monotonic())
    return workload


async def _read_sometimes(client: Client) -> None:
    if client.cluster.chance.random() < 1 / READ_EVERY:
        await client.read()


def kills(cluster: Cluster, times: int, pause: tuple[float, float]) -> Fault:
    """Kill a worker at random, `times` times, and start another one each time. `pause` is in seconds, between two."""

    async def fault() -> None:
        for _ in range(times):
            await asyncio.sleep(cluster.chance.uniform(*pause))
            await cluster.pick().restart()

    return fault


def pause(cluster: Cluster, seconds: float) -> Fault:
    """Stop a worker at random with SIGSTOP, and let it continue after so many seconds."""

    async def fault() -> None:
        await asyncio.sleep(1)
        worker = cluster.pick()
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        worker.signal(signal.SIGCONT)

    return fault


def disconnects(server: Postgres, database: str, times: int, pause: float) -> Fault:
    """Let PostgreSQL end all connections to the database, `times` times."""
    statement = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def fault() -> None:
        for _ in range(times):
            await asyncio.sleep(pause)
            ended = await asyncio.to_thread(server.execute, statement, database)
            assert ended, "there was no connection to end"

    return fault


def restarts(server: Postgres, times: int, pause: float) -> Fault:
    """Stop PostgreSQL immediately, as in a crash, and start it again."""

    async def fault() -> None:
        for _ in range(times):
            await asyncio.sleep(pause)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)

    return fault


async def rolling_restarts(cluster: Cluster, *, times: int, users: int) -> Workload:
    """Replace all workers, one after the other and `times` times, while clients send and follow messages."""

    async def fault() -> None:
        for _ in range(times):
            for worker in cluster.workers:
                await asyncio.sleep(0.3)
                stopped = await worker.restart(signal.SIGTERM)
                assert stopped.status == 0, await stopped.output()
                assert "Traceback" not in await stopped.output()

    workload = await chat_meanwhile(cluster, fault, users=users, send=send_and_follow)
    for number in range(users):
        await workload.until_ended(f"user{number}")
        for turn in workload.observed.reads[-1].turns:
            if (turn.status, turn.reason) not in {("completed", None), ("interrupted", SHUTDOWN)}:
                workload.problem(f"{turn.message} is {turn.status}, because of {turn.reason}")
    return workload


async def repeat_keys(cluster: Cluster, *, keys: int, requests: int = 3) -> Workload:
    """Send each of `keys` messages in several requests with the same key, at once and to two workers by turns."""
    workload = Workload(cluster)
    client = workload.client("ann")
    slots = asyncio.Semaphore(10)

    async def repeat() -> None:
        async with slots:
            message, started = client.new_message(), monotonic()
            worker = cluster.pick()
            other = cluster.pick(other_than=worker)
            attempts = [
                client.attempt((worker, other)[n % 2], message, conversation_id=message, keyed=True)
                for n in range(requests)
            ]
            answers = await asyncio.gather(*attempts)
            client.record(message, message, started, answers[0], worker, keyed=True)
            if {(answer.outcome, answer.reply) for answer in answers} != {(Outcome.OK, cluster.reply_of(message))}:
                workload.problem(f"the requests of {message} were answered differently: {answers}")

    async with asyncio.TaskGroup() as group:
        for _ in range(keys):
            group.create_task(repeat())
    calls = Counter(request.body["messages"][-1]["content"] for request in cluster.upstream.requests)
    for message, count in calls.items():
        if count != 1:
            workload.problem(f"{message} was sent to the model {count} times")
    return workload


async def cut_streams(cluster: Cluster, *, streams: int, cuts: int, at_once: int = 20) -> Workload:
    """Receive replies that are cut `cuts` times each, and continued at another worker."""
    workload = Workload(cluster)
    slots = asyncio.Semaphore(at_once)

    async def stream(number: int) -> None:
        async with slots:
            client = workload.client(f"user{number % 5}")
            places = range(1, len(wire_of(cluster, "any")))
            await receive_with_cuts(client, f"conversation{number}", cluster.chance.sample(places, cuts))

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(stream(number))
    return workload


async def race_deletions(cluster: Cluster, *, races: int, at_once: int = 10) -> Workload:
    """Let a user's history be deleted while messages are sent, in one conversation or in all, and read it."""
    workload = Workload(cluster)
    slots = asyncio.Semaphore(at_once)

    async def race(number: int) -> None:
        async with slots:
            clients = [workload.client(f"user{number}") for _ in range(3)]
            await asyncio.gather(clients[0].send("a"), clients[1].send("b"))

            async def later(work: Callable[[], Awaitable[object]]) -> None:
                await asyncio.sleep(cluster.chance.uniform(0, 0.05))
                await work()

            await asyncio.gather(
                later(lambda: clients[0].send("a")),
                later(lambda: clients[1].send("b", keyed=True)),
                later(lambda: clients[2].delete(cluster.chance.choice((None, "a")))),
                later(clients[2].read),
            )
            for worker in cluster.workers:
                await workload.read(f"user{number}", worker)
            await clients[0].send("a")

    async with asyncio.TaskGroup() as group:
        for number in range(races):
            group.create_task(race(number))
    return workload
