"""The memory use of ConversationLeasesInProcess."""

import gc
import weakref

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from domain.conversation import ConversationId, TurnId, UserId


class TrackedId(UserId):
    """A user id that supports weak references, to test that nothing refers to it any more."""


async def test_free_conversations_take_no_memory() -> None:
    leases = ConversationLeasesInProcess()
    user_id = TrackedId("user123")
    user = weakref.ref(user_id)
    lease = await leases.acquire(TurnId("turn"), user_id, ConversationId("work"), wait=0)
    del user_id
    await lease.release()
    del lease
    gc.collect()

    assert user() is None
