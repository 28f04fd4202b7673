"""In which order and how many at a time refused requests are answered."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from entrypoints.refusal_queue import RefusalQueue


class Clients:
    """Clients whose requests are refused."""

    def __init__(self) -> None:
        self.queue = RefusalQueue()
        self.passes = 0
        """Of the event loop."""
        self.answers: dict[int, int] = {}
        """Of each client that was answered, the pass of the event loop, in the order of the answers."""

    def refuse(self, *clients: int) -> None:
        for client in clients:
            self.queue.add(lambda client=client: self._answer(client))  # type: ignore[misc]

    def refuse_one_that_left(self, client: int) -> None:
        self.queue.add(lambda: not self._answer(client))

    async def until_answered(self, client: int) -> None:
        async with asyncio.timeout(30):
            while client not in self.answers:
                await asyncio.sleep(0.001)

    async def count_passes(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.passes += 1

    def _answer(self, client: int) -> bool:
        self.answers[client] = self.passes
        return True


@pytest.fixture
async def clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    monkeypatch.setattr("entrypoints.refusal_queue._PAUSE", 0.001)
    clients = Clients()
    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(clients.count_passes())
        yield clients
        counting.cancel()


async def test_a_single_refusal_is_answered_at_once(clients: Clients) -> None:
    clients.refuse(0)
    assert list(clients.answers) == [0]


async def test_other_work_runs_between_two_answers(clients: Clients) -> None:
    clients.refuse(*range(5))
    assert list(clients.answers) == [0]
    await clients.until_answered(4)
    assert list(clients.answers) == [*range(5)]
    assert len(set(clients.answers.values())) == 5


async def test_after_a_pause_the_next_refusal_is_answered_at_once(clients: Clients) -> None:
    clients.refuse(0, 1)
    await clients.until_answered(1)
    await asyncio.sleep(0.1)  # ends after the pause, whose timer was set before
    clients.refuse(2)
    assert list(clients.answers) == [0, 1, 2]


async def test_clients_that_have_left_delay_nobody(clients: Clients) -> None:
    clients.refuse(0)
    for client in range(1, 900):
        clients.refuse_one_that_left(client)
    clients.refuse(900, 901)
    await clients.until_answered(901)
    assert len({clients.answers[client] for client in range(1, 901)}) == 1
    assert clients.answers[901] > clients.answers[900]


async def test_the_longer_the_queue_the_more_are_answered_at_a_time(clients: Clients) -> None:
    clients.refuse(*range(2001))
    await clients.until_answered(2000)
    assert list(clients.answers) == [*range(2001)]
    assert [list(clients.answers.values()).count(clients.answers[client]) for client in (0, 1, 2000)] == [1, 3, 1]


async def test_a_failed_answer_does_not_stop_the_queue(clients: Clients) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    clients.refuse(0)
    clients.queue.add(lambda: bool(1 / 0))
    clients.refuse(1)
    await clients.until_answered(1)
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
