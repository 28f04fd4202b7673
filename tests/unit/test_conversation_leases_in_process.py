"""What ConversationLeasesInProcess keeps in memory."""

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from domain.conversation import ConversationId, UserId


async def test_free_conversations_take_no_memory() -> None:
    leases = ConversationLeasesInProcess()
    for number in range(100):
        lease = await leases.acquire(UserId(f"user{number}"), ConversationId("work"), wait=0)
        await lease.release()

    assert len(leases._queues) == 0
