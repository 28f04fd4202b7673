"""Polling Mem0's platform for the effect of a write."""

import anyio
import pytest

from adapters.mem0_platform.polling import poll, settle_within
from application.ports.memory import MemoryLeaked, MemoryRefused, MemoryUnavailable


class Look:
    """Returns or raises the given outcomes, one per call."""

    def __init__(self, *outcomes: object) -> None:
        self._outcomes = list(outcomes)
        self.times: list[float] = []

    async def __call__(self) -> object:
        self.times.append(anyio.current_time())
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_polling_continues_until_there_is_a_result() -> None:
    look = Look(None, [], MemoryUnavailable(), "result")

    assert "result" == await poll(look, first_pause=0)


async def test_pauses_double_up_to_a_maximum() -> None:
    look = Look(None, None, None, None, "result")
    await poll(look, first_pause=0.02, max_pause=0.04)
    pauses = [later - earlier for earlier, later in zip(look.times, look.times[1:], strict=False)]

    assert all(pause >= bound for pause, bound in zip(pauses, [0.02, 0.04, 0.04, 0.04], strict=True))


async def test_a_longer_retry_after_is_honoured() -> None:
    look = Look(MemoryUnavailable(retry_after=0.05), "result")
    await poll(look, first_pause=0)

    assert look.times[1] - look.times[0] >= 0.05


@pytest.mark.parametrize("error", [MemoryLeaked(), MemoryRefused()])
async def test_refusals_and_leaks_end_the_polling(error: Exception) -> None:
    with pytest.raises(type(error)):
        await poll(Look(error))


async def test_a_write_that_does_not_settle_in_time_is_unavailable() -> None:
    with pytest.raises(MemoryUnavailable):
        async with settle_within(0.01):
            await anyio.sleep_forever()
