"""The turns that run in this process: tasks that belong to the application, not to a request."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
from anyio.abc import TaskGroup

from application.ports.conversation_leases import Lease
from application.ports.history import ConversationHistory, HistoryWriteFailed
from application.ports.live_turns import TurnLog
from application.ports.llm import LLMError, Usage
from application.ports.turn_observer import TurnObserver
from domain.conversation import Turn, TurnId
from domain.errors import ChatError, Interruption, OutputLimit, ServerShuttingDown

MAX_REPLY_BYTES: Final = 256_000
"""No reply is longer, in UTF-8."""

MAX_UNWRITTEN: Final = 1_000
"""Ended turns that are kept to be stored later, while the store does not take them."""

PROGRESS_INTERVAL: Final = 1.0
"""Seconds between two savings of the text so far."""


class RunningTurn:
    """One turn while its reply is generated."""

    def __init__(self, turn: Turn, *, uses_memory: bool = True) -> None:
        self.turn: Turn = turn
        """As it began; as it ended, once `ended` is set."""
        self.uses_memory = uses_memory
        self.recalled: int | None = None
        """How many memories were recalled, where long-term memory was asked and answered."""
        self.failure: ChatError | None = None
        """What ended it early, once `ended` is set."""
        self.interruption: Interruption | None = None
        """Who wants it to end; the first one counts."""
        self.scope = anyio.CancelScope()
        self.accepted = False
        """The model has answered and streams."""
        self.answered = anyio.Event()
        """The model streams, or the turn has ended without that."""
        self.ended = anyio.Event()
        self.started_at = anyio.current_time()
        self.first_text_at: float | None = None
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.saved = 0
        self._bytes = 0
        self._log: TurnLog | None = None

    def attach(self, log: TurnLog) -> None:
        """Write to `log` from now on."""
        self._log = log

    @property
    def log(self) -> TurnLog:
        assert self._log is not None, "a turn has a log before it runs"
        return self._log

    @property
    def reply(self) -> str:
        """The text so far."""
        return "".join(self.texts)

    @property
    def refused(self) -> ChatError | None:
        """What ended the turn before the model answered."""
        return None if self.accepted else self.failure

    def accept(self) -> None:
        """The model has answered."""
        self.accepted = True
        self.answered.set()

    def stop(self, interruption: Interruption) -> None:
        """End the turn where it stands. What has been generated is kept."""
        if self.interruption is None:
            self.interruption = interruption
            self.scope.cancel()

    async def append(self, texts: Sequence[str]) -> None:
        """Add to the reply, and let the readers see it.

        Raises:
            OutputLimit: the reply would grow beyond what it may; what still fits has been added.
        """
        if self.first_text_at is None:
            self.first_text_at = anyio.current_time()
        self._bytes += len("".join(texts).encode())
        excess = self._bytes > MAX_REPLY_BYTES
        if excess:
            texts = _fitting(texts, self._bytes)
        self.texts += texts
        await self.log.append(texts)
        if excess:
            raise OutputLimit(f"The reply grew beyond {MAX_REPLY_BYTES} bytes.")


def _fitting(texts: Sequence[str], total: int) -> Sequence[str]:
    kept = list(texts)
    while kept and total > MAX_REPLY_BYTES:
        total -= len(kept.pop().encode())
    return kept


class RunningTurns:
    """Runs turns, saves their text once a second, and ends them all when the service stops."""

    def __init__(
        self,
        generate: Callable[[RunningTurn], Awaitable[None]],
        history: ConversationHistory,
        observer: TurnObserver,
    ) -> None:
        self._generate = generate
        self._history = history
        self._observer = observer
        self._running: dict[TurnId, RunningTurn] = {}
        self._unwritten: dict[TurnId, Turn] = {}
        self._idle = anyio.Event()
        self._tasks: TaskGroup | None = None
        self.closing = False
        """No new turn may begin."""
        self.llm_failure: LLMError | None = None
        """How the latest turn went wrong with the model, if it did."""

    def __len__(self) -> int:
        return len(self._running)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run turns while the context is open; leaving it ends those that still run."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._save_progress_forever)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.drain(grace=0)
                self._tasks.cancel_scope.cancel()

    def start(self, running: RunningTurn, lease: Lease) -> None:
        """Generate the reply in a task of its own; the lease is released at the end."""
        assert self._tasks is not None, "turns run while the context is open"
        self._running[running.turn.id] = running
        if self.closing:  # it began while the drain was under way, which no longer looks for it
            running.stop(ServerShuttingDown())
        self._tasks.start_soon(self._run, running, lease)

    async def drain(self, grace: float) -> None:
        """Let no turn begin any more; give those that run `grace` seconds, then end them. Returns when all ended."""
        self.closing = True
        with anyio.move_on_after(grace):
            await self._until_idle()
        for running in list(self._running.values()):
            running.stop(ServerShuttingDown())
        await self._until_idle()

    async def _until_idle(self) -> None:
        while self._running:
            if self._idle.is_set():  # otherwise someone waits for it already
                self._idle = anyio.Event()
            await self._idle.wait()

    async def _run(self, running: RunningTurn, lease: Lease) -> None:
        try:
            await self._generate(running)
        except Exception as bug:  # of this turn; the others go on
            with suppress(Exception):
                self._observer.failed("running a turn", bug)
        finally:
            del self._running[running.turn.id]
            self._note_llm(running)
            if isinstance(running.failure, HistoryWriteFailed):
                self._unwritten[running.turn.id] = running.turn
                if len(self._unwritten) > MAX_UNWRITTEN:  # the next start ends it, as of a process that died
                    del self._unwritten[next(iter(self._unwritten))]
            with anyio.CancelScope(shield=True):
                await lease.release()
            if not self._running:
                self._idle.set()

    def _note_llm(self, running: RunningTurn) -> None:
        if isinstance(running.failure, LLMError):
            self.llm_failure = running.failure
        elif running.accepted:
            self.llm_failure = None

    async def _save_progress_forever(self) -> None:
        while True:
            await anyio.sleep(PROGRESS_INTERVAL)
            await self._try("saving the text so far", self._save_progress())
            await self._try("storing how turns ended", self._write_ends())

    async def _try(self, doing: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # the loop outlives whatever the store does
            self._observer.failed(doing, error)

    async def _save_progress(self) -> None:
        grown = {id: running for id, running in self._running.items() if len(running.texts) > running.saved}
        if grown:
            counts = {id: len(running.texts) for id, running in grown.items()}
            await self._history.save_progress({id: running.reply for id, running in grown.items()})
            for id, running in grown.items():
                running.saved = counts[id]

    async def _write_ends(self) -> None:
        for turn in list(self._unwritten.values()):
            # Put last first: where one fails the round ends, so that a slow failure holds up nothing else, and the
            # next round begins with another.
            self._unwritten.pop(turn.id, None)
            self._unwritten[turn.id] = turn
            await self._history.finish(turn)
            self._unwritten.pop(turn.id, None)
