"""The whole application on in-memory adapters and a scripted model, for tests of how its parts work together."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import anyio

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from adapters.history_in_memory import HistoryInMemory
from adapters.live_turns_in_process import LiveTurnsInProcess
from adapters.memory_none import NoMemory
from application.memory.forgetting import Forgetting
from application.memory.outbox_worker import OutboxWorker
from application.memory.recall import Recall
from application.ports.history import ReplyAddition, TurnBegin, TurnEnd
from application.ports.live_turns import End, LiveTurns
from application.ports.memory import LongTermMemory
from application.ports.turn_observer import (
    BackgroundFailure,
    Event,
    TurnEnded,
    TurnObserver,
    TurnRejected,
    Where,
)
from application.turns.context_window import ContextWindow
from application.turns.generate_reply import GenerateReply
from application.turns.handle import TurnHandle
from application.turns.keyed_turns import KeyedTurns
from application.turns.new_message import NewMessage, WhenBusy
from application.turns.runner import TurnRunner
from application.turns.send_message import SendMessage
from application.turns.superseding import Superseding
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Exchange, Turn, TurnId, UserId
from domain.errors import ChatError
from domain.idempotency import IdempotencyKey
from domain.reply import MAX_REPLY_BYTES
from tests.harness.fakes import ScriptedLLM, ScriptedReply

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN = UserId("ann")
INSTRUCTIONS = "Be brief."
NO_DELAYS = (0.0, 0.0, 0.0)


class Observed(TurnObserver):
    """Records every event, and the cause of each turn's error, which is dropped after the event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.causes: list[BaseException | None] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TurnEnded):
            self.causes.append(event.error and event.error.__cause__)

    @property
    def ended(self) -> list[TurnEnded]:
        return [event for event in self.events if isinstance(event, TurnEnded)]

    @property
    def failures(self) -> list[tuple[Where, Exception]]:
        return [(event.where, event.error) for event in self.events if isinstance(event, BackgroundFailure)]

    @property
    def rejections(self) -> list[ChatError]:
        return [event.error for event in self.events if isinstance(event, TurnRejected)]


@dataclass
class Harness:
    """The running application and its parts."""

    llm: ScriptedLLM
    history: HistoryInMemory
    memory: LongTermMemory
    outbox_worker: OutboxWorker
    forgetting: Forgetting
    recall: Recall
    observer: Observed
    live_turns: LiveTurns
    leases: ConversationLeasesInProcess
    runner: TurnRunner
    send: SendMessage

    async def complete(self, message: NewMessage) -> "Ended":
        """Send a message, read its events to the end, and wait until no turn is running."""
        handle = await self.send(message)
        ended = await read(handle)
        await self.until_idle()
        return ended

    async def until_idle(self) -> None:
        await until(lambda: not len(self.runner))

    async def stored(self, turn_id: TurnId) -> Turn:
        return await self.history.get(turn_id, None)

    async def last_turn(self) -> Turn:
        """Return Ann's newest turn as stored."""
        turn: Turn = (await self.history.page(ANN, None, 1, None)).items[0]
        return turn

    async def until_replied(self, handle: TurnHandle, deltas: int = 1) -> None:
        """Wait until a turn has `deltas` deltas, with another reader than the handle's."""
        async with await self.live_turns.join(handle.turn.id, None) as reader:
            seen = 0
            with anyio.fail_after(10):
                while seen < deltas:
                    batch = await reader.next(10)
                    assert batch is not None
                    seen += len(batch.deltas)


@dataclass
class Ended:
    """All events that one reader of a turn received, up to the end."""

    deltas: Sequence[str]
    accepted: bool
    end: End

    @property
    def code(self) -> str | None:
        return self.end.failure and self.end.failure.code


@asynccontextmanager
async def application(
    *scripts: ScriptedReply,
    llm: ScriptedLLM | None = None,
    history: HistoryInMemory | None = None,
    memory: LongTermMemory | None = None,
    live_turns: LiveTurns | None = None,
    deadline: float = 60,
    context_tokens: int = 1000,
    max_tokens: int = 1000,
    max_message_chars: int = 100,
    max_reply_bytes: int = MAX_REPLY_BYTES,
    queue_timeout: float = 10,
    store_delays: Sequence[float] = (0.0, 0.5, 1.5),
    store_timeout: float = 5.0,
    is_store_shared: bool = False,
    save_interval: float = 1.0,
    slow_call: float = 2.0,
    lease: timedelta = timedelta(seconds=15),
    keyed: Mapping[str, float] | None = None,
) -> AsyncIterator[Harness]:
    """Run the application with a model that replies as scripted, one script per call; see `ScriptedLLM`.

    `keyed` are arguments of `KeyedTurns`.
    """
    llm, history = llm or ScriptedLLM(*scripts), history or HistoryInMemory()
    observer, leases = Observed(), ConversationLeasesInProcess()
    live_turns = live_turns or LiveTurnsInProcess()
    memory = memory or NoMemory()
    outbox_worker = OutboxWorker(memory, history, observer, lambda: NOW)
    forgetting = Forgetting(memory, history, observer, outbox_worker.wake)
    recall = Recall(memory, forgetting, observer)
    window = ContextWindow(context_tokens, max_tokens, observer)
    generate = GenerateReply(
        llm, history, recall, outbox_worker, observer, INSTRUCTIONS, window, deadline, store_delays, store_timeout
    )
    runner = TurnRunner(
        generate,
        history,
        observer,
        is_store_shared=is_store_shared,
        save_interval=save_interval,
        slow_call=slow_call,
        lease=lease,
    )
    keyed_turns = KeyedTurns(history, live_turns, **(keyed or {}))
    send = SendMessage(
        history=history,
        live_turns=live_turns,
        leases=leases,
        keyed_turns=keyed_turns,
        superseding=Superseding(leases, live_turns, keyed_turns, observer, poll_interval=0.01),
        runner=runner,
        observer=observer,
        now=lambda: NOW,
        new_turn_id=lambda: TurnId(str(uuid4())),
        instructions=INSTRUCTIONS,
        window=window,
        max_message_chars=max_message_chars,
        max_reply_bytes=max_reply_bytes,
        queue_timeout=queue_timeout,
    )
    async with outbox_worker.opened(), runner.opened():
        yield Harness(
            llm, history, memory, outbox_worker, forgetting, recall, observer, live_turns, leases, runner, send
        )


def message(
    text: str = "Hello",
    *,
    user: UserId = ANN,
    conversation: ConversationId = DEFAULT_CONVERSATION,
    keep_running: bool = False,
    when_busy: WhenBusy = WhenBusy.WAIT,
    use_memory: bool = True,
    key: str | None = None,
    after: int = 0,
) -> NewMessage:
    """Create a message from Ann, for `Harness.send`."""
    return NewMessage(user, conversation, text, keep_running, when_busy, use_memory, key, after)


async def read(handle: TurnHandle) -> Ended:
    """Read a turn's events to the end and close the reader. Fails if nothing arrives for 30 seconds."""
    deltas: list[str] = []
    async with handle:
        while True:
            batch = await handle.next(30)
            assert batch is not None
            deltas += batch.deltas
            if batch.end is not None:
                return Ended(deltas, batch.accepted, batch.end)


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition until it is true, for at most 10 seconds."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


@dataclass
class FailingHistory(HistoryInMemory):
    """Raises the errors planned for a method, one per call, before the call takes effect."""

    plans: dict[str, list[Exception]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    async def _before(self, method: str) -> None:
        self.calls.append(method)
        if planned := self.plans.get(method):
            raise planned.pop(0)

    async def begin(self, begin: TurnBegin) -> Turn:
        await self._before("begin")
        return await super().begin(begin)

    async def find(self, key: IdempotencyKey) -> Turn | None:
        await self._before("find")
        return await super().find(key)

    async def finish(self, end: TurnEnd) -> Turn | None:
        await self._before("finish")
        return await super().finish(end)

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        await self._before("latest")
        return await super().latest(user_id, conversation_id, limit)

    async def finish_abandoned(self) -> int:
        await self._before("finish_abandoned")
        return await super().finish_abandoned()

    async def check(self) -> None:
        await self._before("check")
        await super().check()

    async def probe_write(self) -> None:
        await self._before("probe_write")
        await super().probe_write()

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        await self._before("save_progress")
        return await super().save_progress(additions, lease)


class HangingHistory(HistoryInMemory):
    """Never stores an end."""

    async def finish(self, end: TurnEnd) -> Turn | None:
        await anyio.sleep(3600)
        return await super().finish(end)
