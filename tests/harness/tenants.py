"""Users who call everything at random, with their own ids and those of others, and whether data crosses between them.

Each user has a canary, which is part of all that they send. The model repeats its whole prompt, so that whatever
reaches it would be seen in a reply, too.
"""

import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx2

from application.ports.llm import AS_CONFIGURED, LLM, Reply, ReplyOptions
from domain.conversation import Message, Usage
from domain.principal import Principal, Role
from tests.harness.credentials import KnownCredentials

CANARY: Final = re.compile(r"canary-[0-9a-f]{8}")

CALLS: Final[Mapping[str, int]] = {
    "POST /api/chat": 8,
    "POST /api/chat/simple": 8,
    "GET /api/chat/history/{user}": 4,
    "GET /api/chat/history/{user}?conversation_id={conversation}": 2,
    "GET /api/chat/history/{user}?limit=1&cursor={cursor}": 2,
    "DELETE /api/chat/history/{user}?conversation_id={conversation}": 1,
    "GET /api/chat/conversations/{user}": 2,
    "PATCH /api/chat/conversations/{user}/{conversation}": 2,
    "GET /api/chat/turns/{turn}": 4,
    "POST /api/chat/turns/{turn}/stop": 2,
    "GET /api/chat/turns/{turn}/stream": 4,
    "POST /api/memories/{user}": 3,
    "GET /api/memories/{user}": 3,
    "GET /api/memories/{user}/search?q=canary {canary}": 3,
    "PATCH /api/memories/{user}/{memory}": 2,
    "DELETE /api/memories/{user}/{memory}": 1,
    "POST /v1/chat/completions": 4,
    "GET /page/session": 1,
    "GET /api/health/detailed": 1,
}
"""Calls and how often they are made, relative to each other."""


class RepeatingLLM(LLM):
    """Replies with its whole prompt, and records whose canaries a prompt has."""

    def __init__(self) -> None:
        self.prompts: list[frozenset[str]] = []

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        text = "\n".join(message.text for message in messages)
        self.prompts.append(frozenset(CANARY.findall(text)))
        await anyio.lowlevel.checkpoint()
        yield _Repetition(text[-2_000:])


class _Repetition(Reply):
    def __init__(self, text: str) -> None:
        self.finish_reason, self.usage = "stop", Usage(1, 1)
        self._text = text

    async def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        yield [self._text]


@dataclass
class Tenant:
    name: str
    canary: str
    turns: list[str] = field(default_factory=list)
    memories: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=lambda: ["1"])
    chosen: int = 0
    """How many ids of turns the user has chosen."""

    @property
    def conversation(self) -> str:
        return f"chat-{self.name}"


class Tenants:
    """`count` users, of whom every second one is named like the one before, but longer."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self._dice = random.Random(seed)
        self._all = [self._tenant(number) for number in range(count)]
        self.llm = RepeatingLLM()
        self.authenticate = KnownCredentials({f"token-{one.name}": Principal(Role.USER, one.name) for one in self._all})
        self.crossings: list[tuple[str, str]] = []
        """Which call returned whose data to another user, or what should have been refused."""
        self.statuses: dict[int, int] = {}

    def _tenant(self, number: int) -> Tenant:
        return Tenant(f"user{number // 2}" + "x" * (number % 2), f"canary-{self._dice.getrandbits(32):08x}")

    async def call_at_random(self, client: httpx2.AsyncClient, calls: int) -> None:
        """Let every user make `calls` calls; all users at the same time."""
        async with anyio.create_task_group() as tasks:
            for tenant in self._all:
                tasks.start_soon(self._run, client, tenant, calls)

    async def _run(self, client: httpx2.AsyncClient, caller: Tenant, calls: int) -> None:
        dice = random.Random(caller.canary)
        for _ in range(calls):
            await self._call(client, caller, dice)

    async def _call(self, client: httpx2.AsyncClient, caller: Tenant, dice: random.Random) -> None:
        [call] = dice.choices(list(CALLS), list(CALLS.values()))
        method, template = call.split(" ", 1)
        owner = caller if dice.random() < 0.5 else dice.choice(self._all)
        names = {
            "user": owner.name,
            "conversation": dice.choice(self._all).conversation,
            "canary": owner.canary,
            "cursor": dice.choice(owner.cursors[-9:]),
            "turn": dice.choice(owner.turns[-9:] or ["none"]),
            "memory": dice.choice(owner.memories[-9:] or ["none"]),
        }
        body = _body(method, template, caller, owner, dice)
        headers = {"Authorization": f"Bearer token-{caller.name}", "X-Conversation-Id": names["conversation"]}
        response = await client.request(method, template.format(**names), json=body, headers=headers)
        self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
        if set(CANARY.findall(response.text)) - {caller.canary}:
            self.crossings.append((call, response.text))
        if owner is not caller and response.is_success and "{user}" in template:
            self.crossings.append((call, f"{caller.name} reached {owner.name}"))
        if response.is_success:
            _learn(caller, response)

    def prompts_with_several_canaries(self) -> list[frozenset[str]]:
        return [prompt for prompt in self.llm.prompts if len(prompt) != 1]

    def in_log(self, log: str) -> set[str]:
        """Return what of the users' data the log contains: canaries, credentials, and ids as a word."""
        ids = {one.name for one in self._all} & set(re.findall(r"[A-Za-z0-9-]+", log))
        return ids | set(CANARY.findall(log)) | set(re.findall("token-user", log))


def _body(method: str, template: str, caller: Tenant, owner: Tenant, dice: random.Random) -> dict[str, Any] | None:
    if template.startswith("/api/chat/turns") or method in ("GET", "DELETE"):
        return None
    if template.startswith("/api/memories"):
        return {"fact": f"likes {caller.canary} {dice.random()}"}
    if method == "PATCH":
        return {"title": f"About {caller.canary}"}
    message = f"What of {caller.canary}?"
    if template.startswith("/v1"):
        return {"messages": [{"role": "user", "content": message}], "user": owner.name}
    body: dict[str, Any] = {"message": message, "conversation_id": owner.conversation}
    if dice.random() < 0.5:  # an id that all users choose, each for a turn of their own
        caller.chosen += 1
        body["turn_id"] = f"00000000-0000-4000-8000-{caller.chosen:012}"
    named = dice.choice([None, caller, owner])
    return body if named is None else body | {"user_id": named.name}


def _learn(caller: Tenant, response: httpx2.Response) -> None:
    """Keep the ids in a response, so that others can try them."""
    if turn := response.headers.get("X-Turn-ID"):
        caller.turns.append(turn)
    if response.status_code == 201:
        caller.memories.append(response.json()["id"])
    if response.headers.get("content-type") == "application/json" and (cursor := response.json().get("next_cursor")):
        caller.cursors.append(cursor)
