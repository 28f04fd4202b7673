"""A turn fails, or its client disconnects, at each step of the turn."""

import asyncio
from collections.abc import Awaitable, Callable, Container
from typing import Any

import orjson
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import HistoryUnavailable
from application.ports.llm import LLMDisconnected
from domain.conversation import Turn, TurnStatus, UserId
from tests.harness.failing_history import GatedHistory
from tests.harness.fakes import ScriptedLLM
from tests.harness.gated_llm import GatedLLM
from tests.harness.leaks import assert_no_turn_left
from tests.harness.raw_client import RawClient
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

REPLY = "Hello, world!"
STREAM, SIMPLE = "/api/chat", "/api/chat/simple"

both_endpoints = pytest.mark.parametrize("path", [STREAM, SIMPLE])

HISTORY_POINTS = {"begin", "latest", "finish", "finish done"}
"""Steps at which a store may fail. By contract, a `begin` or a read that took effect does not raise."""

LLM_POINTS = {"reply", "reply done", "texts", "texts done", "leave"}

ALL_POINTS = HISTORY_POINTS | LLM_POINTS | {"begin done", "latest done"}


class FailPoint:
    """A gate that calls `act` at the n-th step of the given kinds."""

    def __init__(self) -> None:
        self.hit = False
        self._left = 0

    def arm(self, number: int, kinds: Container[str], act: Callable[[], Awaitable[None]]) -> None:
        self.hit, self._left, self._kinds, self._act = False, number, kinds, act

    async def __call__(self, point: str) -> None:
        if self._left and point in self._kinds:
            self._left -= 1
            if not self._left:
                self.hit = True
                await self._act()


SHORT_DELAYS = {"generate_reply": {"store_delays": (0.0, 0.01, 0.02)}}


class Trial:
    """A history and a model that share one fail point."""

    def __init__(self) -> None:
        self.point = FailPoint()
        self.store = HistoryInMemory()
        self.parts = {
            "history": GatedHistory(self.store, self.point),
            "llm": GatedLLM(ScriptedLLM(), self.point),
        }

    async def turns(self, user: str) -> list[Turn]:
        return list((await self.store.page(UserId(user), None, 10, None)).items)

    async def run(self, service: Service, path: str, user: str) -> tuple[RawClient, list[Turn]]:
        """Run a turn to its end; return its client and the stored turns of the user."""
        async with RawClient(service.url) as client:
            client.post(path, {"user_id": user, "message": "Hello"})
            async with asyncio.timeout(10):
                await client.head()
                await client.rest()
        await assert_no_turn_left(service)
        return client, await self.turns(user)


def reported(path: str, client: RawClient) -> str:
    """Return the outcome sent to the client: `done` or an error code."""
    if path == STREAM and client.status == 200:
        error: dict[str, Any] = client.stream.last.get("error", {})
        return str(error.get("code", "done"))
    return "done" if client.status == 200 else str(orjson.loads(client.body)["code"])


def stored(turns: list[Turn]) -> str:
    """Return the end of the only turn: `done`, its reason, or `nothing` if there is no turn."""
    assert len(turns) <= 1
    for turn in turns:
        assert turn.status is not TurnStatus.IN_PROGRESS
        assert REPLY.startswith(turn.reply)
        if turn.status is TurnStatus.COMPLETED:
            assert turn.reply == REPLY
            return "done"
        return str(turn.reason)
    return "nothing"


# Steps that fail, the error they raise, and the pairs of outcomes that the client and the history may then have.
FAILURES = [
    (HISTORY_POINTS, HistoryUnavailable, {("history_unavailable", "nothing"), ("history_unavailable",) * 2}),
    (HISTORY_POINTS, RuntimeError, {("internal_error", "nothing"), ("internal_error",) * 2}),
    (LLM_POINTS, LLMDisconnected, {("upstream_disconnected",) * 2}),
    (LLM_POINTS, RuntimeError, {("internal_error",) * 2}),
]


@both_endpoints
@pytest.mark.parametrize(("kinds", "error", "failures"), FAILURES)
@pytest.mark.row("S2")
async def test_the_client_of_a_failed_turn_receives_the_outcome_that_is_stored(
    path: str, kinds: set[str], error: type[Exception], failures: set[tuple[str, str]]
) -> None:
    async def fail() -> None:
        raise error

    trial, number, outcomes = Trial(), 0, set()
    async with running_service(trial.parts, SHORT_DELAYS) as service:
        while number == 0 or trial.point.hit:
            number += 1
            trial.point.arm(number, kinds, fail)
            client, turns = await trial.run(service, path, f"user{number}")
            outcomes.add((reported(path, client), stored(turns)))
    assert number > len(kinds)
    assert outcomes == failures | {("done", "done")}


@both_endpoints
@pytest.mark.parametrize("policy", ["cancel", "continue"])
async def test_a_turn_ends_and_frees_its_conversation_whenever_its_client_disconnects(path: str, policy: str) -> None:
    trial, number, outcomes = Trial(), 0, set()
    async with running_service(trial.parts, SHORT_DELAYS) as service:
        while number == 0 or trial.point.hit:
            number += 1
            async with RawClient(service.url) as client:
                trial.point.arm(number, ALL_POINTS, lambda: _disconnect(client))
                client.post(path, {"user_id": f"user{number}", "message": "Hello", "on_disconnect": policy})
                async with asyncio.timeout(10):
                    await client.closed()
            await assert_no_turn_left(service)
            outcomes.add(stored(await trial.turns(f"user{number}")))
    assert number > len(ALL_POINTS)
    assert outcomes <= {"done", "client_disconnected", "nothing"}
    assert ("client_disconnected" in outcomes) == (policy == "cancel")


async def _disconnect(client: RawClient) -> None:
    client.leave("rst")
    await asyncio.sleep(0.03)  # so that the service notices during this step
