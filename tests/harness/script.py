"""The application with fakes and in-memory adapters, for tests of how its parts play together."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import anyio

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from adapters.history_in_memory import HistoryInMemory
from adapters.live_turns_in_process import LiveTurnsInProcess
from adapters.memory_none import NoMemory
from application.memory.outbox_worker import MemoryKeeper
from application.memory.recall import Recollection
from application.ports.live_turns import End, Reader
from application.ports.memory import LongTermMemory
from application.ports.turn_observer import TurnFigures, TurnObserver
from application.turns.generate_reply import GenerateReply
from application.turns.running import RunningTurns
from application.turns.send_message import NewMessage, SendMessage
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Exchange, Turn, TurnId, UserId
from domain.errors import ChatError
from tests.harness.fakes import ScriptedLLM, ScriptedReply

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN = UserId("ann")
INSTRUCTIONS = "Be brief."


class Observed(TurnObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.turns: list[tuple[Turn, ChatError | None, TurnFigures]] = []
        self.causes: list[BaseException | None] = []
        self.failures: list[tuple[str, Exception]] = []

    def ended(self, turn: Turn, error: ChatError | None, figures: TurnFigures) -> None:
        self.turns.append((turn, error, figures))
        self.causes.append(error and error.__cause__)

    def failed(self, doing: str, error: Exception) -> None:
        self.failures.append((doing, error))


@dataclass
class Stage:
    """Everything that takes part in a turn."""

    llm: ScriptedLLM
    history: HistoryInMemory
    memory: LongTermMemory
    keeper: MemoryKeeper
    recollection: Recollection
    observer: Observed
    live_turns: LiveTurnsInProcess
    leases: ConversationLeasesInProcess
    turns: RunningTurns
    send: SendMessage

    async def ended(self, message: NewMessage) -> "Ended":
        """Send, read to the end, and wait until nothing runs any more."""
        begun = await self.send(message)
        ended = await read(begun.reader)
        with anyio.fail_after(10):
            while len(self.turns):
                await anyio.sleep(0)
        return ended


@dataclass
class Ended:
    """What a reader saw of a turn."""

    texts: Sequence[str]
    end: End


@asynccontextmanager
async def staged(
    *scripts: ScriptedReply,
    llm: ScriptedLLM | None = None,
    history: HistoryInMemory | None = None,
    memory: LongTermMemory | None = None,
    deadline: float = 60,
    context_tokens: int = 1000,
    max_message_chars: int = 100,
) -> AsyncIterator[Stage]:
    """The application, with a model that replies as scripted."""
    llm, history = llm or ScriptedLLM(*scripts), history or HistoryInMemory()
    observer, live_turns, leases = Observed(), LiveTurnsInProcess(), ConversationLeasesInProcess()
    memory = memory or NoMemory()
    keeper = MemoryKeeper(memory, history, observer, lambda: NOW)
    recollection = Recollection(memory, keeper, observer)
    generate = GenerateReply(llm, history, recollection, keeper, observer, INSTRUCTIONS, context_tokens, deadline)
    turns = RunningTurns(generate, history, observer)
    send = SendMessage(
        history=history,
        live_turns=live_turns,
        leases=leases,
        turns=turns,
        now=lambda: NOW,
        new_turn_id=lambda: TurnId(str(uuid4())),
        instructions=INSTRUCTIONS,
        context_tokens=context_tokens,
        max_message_chars=max_message_chars,
    )
    async with keeper.open(), turns.open():
        yield Stage(llm, history, memory, keeper, recollection, observer, live_turns, leases, turns, send)


def message(
    text: str = "Hello",
    *,
    user: UserId = ANN,
    conversation: ConversationId = DEFAULT_CONVERSATION,
    keep_running: bool = False,
    wait_when_busy: bool = True,
    use_memory: bool = True,
) -> NewMessage:
    return NewMessage(user, conversation, text, keep_running, wait_when_busy, use_memory)


async def read(reader: Reader) -> Ended:
    """Everything from here to the end."""
    texts: list[str] = []
    async with reader:
        while True:
            batch = await reader.next(30)
            texts += batch.texts
            if batch.end is not None:
                return Ended(texts, batch.end)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is bound to come true."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


@dataclass
class FailingHistory(HistoryInMemory):
    """Raises what is planned for a method, once for each error planned; else it does what it should."""

    plans: dict[str, list[Exception]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    async def _play(self, method: str) -> None:
        self.calls.append(method)
        if planned := self.plans.get(method):
            raise planned.pop(0)

    async def begin(self, turn: Turn) -> None:
        await self._play("begin")
        await super().begin(turn)

    async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
        await self._play("finish")
        return await super().finish(turn, remember_at=remember_at)

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        await self._play("latest")
        return await super().latest(user_id, conversation_id, limit)

    async def save_progress(self, replies: Mapping[TurnId, str]) -> None:
        await self._play("save_progress")
        await super().save_progress(replies)
