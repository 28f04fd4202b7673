"""Superseding: running a turn instead of the one that runs in its conversation."""

from typing import NoReturn

import anyio

from application.ports.conversation_leases import ConversationLeases, Lease
from application.ports.live_turns import LiveTurns
from application.ports.turn_observer import TurnObserver
from application.turns.keyed_turns import KeyedTurns
from application.turns.leases import release
from domain.conversation import ConversationId, TurnId, UserId
from domain.errors import Superseded, TurnInProgress
from domain.idempotency import IdempotencyKey


class Superseding:
    """Takes a conversation from the turn that runs in it, which ends as `superseded`.

    A turn that has the lease but no event log yet, because it is about to begin, is looked for again every
    `poll_interval` seconds.
    """

    def __init__(
        self,
        leases: ConversationLeases,
        live_turns: LiveTurns,
        keyed_turns: KeyedTurns,
        observer: TurnObserver,
        *,
        poll_interval: float = 0.1,
    ) -> None:
        self._leases = leases
        self._live_turns = live_turns
        self._keyed_turns = keyed_turns
        self._observer = observer
        self._poll_interval = poll_interval

    async def acquire(
        self,
        turn_id: TurnId,
        user_id: UserId,
        conversation_id: ConversationId,
        key: IdempotencyKey | None,
        wait: float,
    ) -> Lease:
        """Return the lease of the conversation, for a turn with this idempotency key.

        Raises:
            TurnInProgress: the running turn did not end in time, it is that of the key, or too many turns wait.
            LiveTurnsUnavailable, HistoryUnavailable: see the ports.
        """
        lease: Lease | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_holders, turn_id, user_id, conversation_id, key)
                lease = await self._leases.acquire(turn_id, user_id, conversation_id, wait=wait, first=True)
                tasks.cancel_scope.cancel()
        except BaseException as error:
            if lease is not None:  # cancelled, or failed to stop a turn that ended by itself
                await release(lease, self._observer)
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        assert lease is not None
        return lease

    async def _stop_holders(
        self, turn_id: TurnId, user_id: UserId, conversation_id: ConversationId, key: IdempotencyKey | None
    ) -> NoReturn:
        while True:
            holder = await self._leases.holder(user_id, conversation_id)
            if holder not in (None, turn_id):
                if key is not None and (named := await self._keyed_turns.find(key)) and named.id == holder:
                    raise TurnInProgress(retry_after=1)  # the same request, which another worker has received
                await self._live_turns.stop(holder, user_id, Superseded())
            await anyio.sleep(self._poll_interval)
