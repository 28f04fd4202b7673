"""Releasing the lease of a conversation."""

import anyio

from application.ports.conversation_leases import Lease
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where


async def release(lease: Lease, observer: TurnObserver, *, within: float = 1.0, turn_ended: bool = False) -> None:
    """Release a lease in at most `within` seconds, even if the caller has been cancelled.

    Never raises, because its callers have something to tell first: how a turn has ended, or why none has begun. A
    failure is reported to the observer; the lease then expires by itself. For `turn_ended` see `Lease.release`.
    """
    try:
        with anyio.fail_after(within, shield=True):
            await lease.release(turn_ended=turn_ended)
    except Exception as error:
        observer.observe(BackgroundFailure(Where.RELEASING_LEASE, error))
