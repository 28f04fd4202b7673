"""KeyWatch: whether API keys can be looked up."""

from application.ports.credentials import APIKeys
from application.ports.turn_observer import Store, TurnObserver
from application.watch import Watch


class KeyWatch(Watch):
    """Knows whether API keys can be looked up, which the readiness check need not do: anyone may ask for that.

    `intervals` are those of `Watch`.
    """

    def __init__(self, keys: APIKeys, observer: TurnObserver, **intervals: float) -> None:
        super().__init__(Store.API_KEYS, observer, **intervals)
        self._keys = keys

    async def call(self, *, failing: bool) -> None:
        await self._keys.find("")  # the id of no key
