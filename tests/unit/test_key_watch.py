"""Whether API keys can be looked up, and what the readiness check makes of it."""

from pathlib import Path
from typing import Any

import pytest

from application.health import CheckReadiness
from application.key_watch import KeyWatch
from application.ports.history import HistoryUnavailable
from application.ports.turn_observer import Store, StoreFailing, StoreRecovered
from application.store_watch import StoreWatch
from domain.api_key import APIKey
from entrypoints.container import Container
from entrypoints.settings import Settings
from tests.harness.api_keys_in_memory import APIKeysInMemory
from tests.harness.credentials import authentication
from tests.harness.script import Observed, application, until

LOCKED = HistoryUnavailable(explanation="The table is locked.")


class FailingKeys(APIKeysInMemory):
    """Raise while `failure` is set, and count the look-ups."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: HistoryUnavailable | None = None
        self.calls = 0

    async def find(self, key_id: str) -> APIKey | None:
        self.calls += 1
        if self.failure:
            raise self.failure
        return await super().find(key_id)


async def test_the_service_is_not_ready_while_keys_cannot_be_looked_up() -> None:
    keys, observer = FailingKeys(), Observed()
    watch = KeyWatch(keys, observer, interval=0.005)
    async with application() as app, watch.opened():
        ready = CheckReadiness(app.history, app.runner, StoreWatch(app.history, observer), watch)
        answers = [await ready()]
        keys.failure = LOCKED
        await until(lambda: watch.failure is not None)
        answers.append(await ready())
        keys.failure = None
        await until(lambda: watch.failure is None)
        answers.append(await ready())

    assert answers == [True, False, True]
    failing, recovered = observer.events
    assert isinstance(failing, StoreFailing)
    assert isinstance(recovered, StoreRecovered)
    assert (failing.store, failing.error.explanation) == (Store.API_KEYS, "The table is locked.")
    assert recovered.store == Store.API_KEYS


async def test_asking_whether_the_service_is_ready_looks_up_no_key() -> None:
    keys, observer = FailingKeys(), Observed()
    async with application() as app:
        ready = CheckReadiness(
            app.history, app.runner, StoreWatch(app.history, observer), KeyWatch(keys, observer, interval=3600)
        )
        assert [await ready() for _ in range(3)] == [True] * 3

    assert keys.calls == 0


@pytest.mark.parametrize(
    ("mode", "watched"), [("none", False), ("jwt", False), ("api_key", True), ("api_key+jwt", True)]
)
@pytest.mark.parametrize("stores", [{}, {"history_backend": "in_memory", "memory_backend": "none"}])
def test_keys_are_watched_only_if_they_are_accepted(
    mode: str, watched: bool, stores: dict[str, Any], tmp_path: Path
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, **authentication(mode), **stores)
    container = Container(settings=settings)
    parts = [getattr(part, "gen", None) for part in container.parts()]

    assert isinstance(container.key_watch(), KeyWatch) == watched
    assert container.check_readiness().key_watch is container.key_watch()
    assert [part.__qualname__ for part in parts if part is not None].count("Watch.opened") == 1 + watched
