"""Giving back the lease of a conversation in which no turn has begun."""

import anyio

from application.ports.conversation_leases import Lease
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where


async def release_unused(lease: Lease, observer: TurnObserver, *, within: float = 1.0) -> None:
    """Release a lease, in at most `within` seconds, even if the caller has been cancelled.

    Never raises, so that the caller can raise why no turn has begun: if the release fails, that is reported, and the
    lease expires soon.
    """
    try:
        with anyio.move_on_after(within, shield=True):
            await lease.release()
    except Exception as error:
        observer.observe(BackgroundFailure(Where.RELEASING_LEASE, error))
