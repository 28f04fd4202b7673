"""TurnRunner: the tasks that generate replies. They belong to the application, not to a request."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import anyio
from anyio.abc import TaskGroup

from application.ports.history import ConversationHistory, HistoryWriteFailed
from application.ports.llm import LLMContentRefused, LLMContextTooLong, LLMError, LLMParameterRefused
from application.ports.turn_observer import AbandonedTurnsEnded, BackgroundFailure, TurnObserver, Where
from application.turns.running import RunningTurn
from application.turns.unstored_ends import UnstoredEnds
from domain.conversation import TurnId
from domain.errors import Cancelled, ServerShuttingDown


class TurnRunner:
    """Runs turns, saves their text as it grows, and ends them all at shutdown.

    Running turns are leased in the history for `lease` and renewed at a third of it. Ends that the store did not accept
    are stored later. A turn that was ended by another worker, or deleted, is stopped.

    A sweep ends the turns whose worker has died. A worker with a store of its own sweeps when it is opened, and then
    once per `lease`; workers that share a store sweep five times per `lease`. If a call to a shared store fails, or
    takes longer than `slow_call` seconds, other workers are probably unable to renew their leases, too. So the next
    sweep is put off by a whole lease, in which those that are alive renew theirs. For the same reason, a worker that
    has just started does not sweep before the others have had time to renew.
    """

    def __init__(
        self,
        generate: Callable[[RunningTurn], Awaitable[None]],
        history: ConversationHistory,
        observer: TurnObserver,
        *,
        is_store_shared: bool = False,
        save_interval: float = 1.0,
        slow_call: float = 2.0,
        lease: timedelta = timedelta(seconds=15),
    ) -> None:
        self.lease = lease
        self._generate = generate
        self._history = history
        self._observer = observer
        self._is_store_shared = is_store_shared
        self._save_interval = save_interval
        self._slow_call = slow_call
        self._sweep_interval = lease.total_seconds() / (5 if is_store_shared else 1)
        self._next_sweep = 0.0
        self._running: dict[TurnId, RunningTurn] = {}
        self._unstored = UnstoredEnds(history, observer)
        self._idle = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._drain_storing = 1.0
        self.draining = False
        """Turns are no longer accepted, because the service is shutting down."""
        self.llm_failure: LLMError | None = None
        """The error of the latest call to the model; None if that succeeded. Refused messages do not count."""

    def __len__(self) -> int:
        """Return the number of running turns."""
        return len(self._running)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Run turns while the context is open. Exiting it ends those that still run."""
        async with anyio.create_task_group() as self._tasks:
            self._next_sweep = anyio.current_time()
            if self._is_store_shared:
                self._next_sweep += self._renew_after + self._save_interval
            else:
                await self._sweep()
            self._tasks.start_soon(self._save_forever)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.drain(grace=0)
                self._tasks.cancel_scope.cancel()

    def start(self, running: RunningTurn) -> None:
        """Generate the reply in a task of its own."""
        assert self._tasks is not None, "turns run while the runner is open"
        self._running[running.turn.id] = running
        if self.draining:  # it began while the drain was under way, which stopped only the turns it found
            self._stop(running)
        self._tasks.start_soon(self._run, running)

    async def drain(self, grace: float, *, storing: float = 1.0) -> None:
        """Stop accepting turns, wait up to `grace` seconds, stop the rest; return when all have ended.

        From then on, storing an end may take `storing` seconds. An end that was not stored is found as abandoned.
        """
        self.draining, self._drain_storing = True, storing
        with anyio.move_on_after(grace):
            await self._until_idle()
        for running in list(self._running.values()):
            self._stop(running)
        await self._until_idle()

    def _stop(self, running: RunningTurn) -> None:
        running.stop(ServerShuttingDown())
        running.limit_storing(self._drain_storing)

    async def _until_idle(self) -> None:
        while self._running:
            if self._idle.is_set():  # otherwise another drain is waiting for it
                self._idle = anyio.Event()
            await self._idle.wait()

    async def _run(self, running: RunningTurn) -> None:
        try:
            with anyio.CancelScope(shield=True):  # only `stop` and the deadline end a turn, so that its end is stored
                await self._generate(running)
        except Exception as bug:  # confined to this turn
            with suppress(Exception):
                self._report(Where.RUNNING_TURN, bug)
            running.abandon_log()  # its readers would wait for ever
        finally:
            del self._running[running.turn.id]
            self._note_llm_result(running)
            if isinstance(running.failure, HistoryWriteFailed):
                self._unstored.add(running.turn)
            await running.release_lease()
            if not self._running:
                self._idle.set()

    def _note_llm_result(self, running: RunningTurn) -> None:
        if isinstance(running.failure, (LLMContentRefused, LLMContextTooLong, LLMParameterRefused)):
            return  # the fault of one message
        if isinstance(running.failure, LLMError):
            self.llm_failure = running.failure
        elif running.accepted:
            self.llm_failure = None

    async def _save_forever(self) -> None:
        while True:
            await anyio.sleep(self._save_interval)
            sweeps = anyio.current_time() >= self._next_sweep
            # Before sweeping, all leases are renewed: after an outage our own turns must not look abandoned.
            saved = await self._try(Where.SAVING_PROGRESS, self._save_progress(renew_all=sweeps))
            # Nor may a sweep precede an end that is still to be stored: the text saved last would stand for the reply.
            await self._try(Where.STORING_END, self._unstored.store())
            if sweeps and saved and not self._unstored and anyio.current_time() >= self._next_sweep:
                await self._sweep()

    async def _sweep(self) -> None:
        started = anyio.current_time()
        if await self._try(Where.ENDING_ABANDONED_TURNS, self._end_abandoned()):
            self._next_sweep = max(self._next_sweep, started + self._sweep_interval)

    async def _try(self, where: Where, work: Awaitable[None]) -> bool:
        started = anyio.current_time()
        succeeded = False
        try:
            await work
            succeeded = True
        except Exception as error:  # of any kind: the loop must survive
            self._report(where, error)
        now = anyio.current_time()
        if self._is_store_shared and (not succeeded or now - started > self._slow_call):
            self._next_sweep = now + self.lease.total_seconds()
        return succeeded

    @property
    def _renew_after(self) -> float:
        return self.lease.total_seconds() / 3

    async def _save_progress(self, *, renew_all: bool) -> None:
        now = anyio.current_time()
        renew_before = now if renew_all else now - self._renew_after
        due = {
            id: running
            for id, running in self._running.items()
            if running.is_stored
            and (len(running.reply.deltas) > running.saved_deltas or running.renewed_at <= renew_before)
        }
        if due:
            counts = {id: len(running.reply.deltas) for id, running in due.items()}
            additions = {id: running.unsaved for id, running in due.items()}
            lost = await self._history.save_progress(additions, self.lease)
            for id, running in due.items():
                running.saved_deltas = counts[id]
                running.saved_characters += len(additions[id].text)
                if now - running.renewed_at >= self._renew_after:  # otherwise the store may have left the lease alone
                    running.renewed_at = now
                if id in lost and not running.has_ended:  # it was ended by another worker, or deleted
                    running.stop(Cancelled())  # the reason does not matter: readers receive the stored end

    async def _end_abandoned(self) -> None:
        if count := await self._history.finish_abandoned():
            self._observer.observe(AbandonedTurnsEnded(count))

    def _report(self, where: Where, error: Exception) -> None:
        self._observer.observe(BackgroundFailure(where, error))
