"""Building the client of Mem0's platform, which its callers share."""

import asyncio
import gc
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from adapters.mem0_platform import client as client_module
from adapters.mem0_platform.client import PlatformClient
from domain.errors import Unusable
from tests.harness.cancelling import cancelled_when
from tests.harness.exchange import TIMEOUT


async def never_sent(_client: Any) -> None:
    raise AssertionError("there is no client to send a request with")


async def test_a_build_that_fails_after_its_caller_was_cancelled_is_not_logged_and_the_next_call_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, may_fail = Event(), Event()

    def failing_import(_data_dir: Path) -> Any:
        has_begun.set()
        may_fail.wait(TIMEOUT)
        raise Unusable("Mem0 is not installed.")

    monkeypatch.setattr(client_module, "import_mem0", failing_import)
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))
    others = asyncio.all_tasks()
    client = PlatformClient(
        api_key="m0-key",
        host=None,
        data_dir=tmp_path,
        now=lambda: datetime.now(UTC),
        connect_timeout=1,
        request_timeout=1,
        pool_timeout=1,
        max_connections=1,
        max_response_bytes=1,
        build_timeout=TIMEOUT,
    )

    await cancelled_when(has_begun.is_set, client.call, never_sent)
    may_fail.set()
    await asyncio.wait(asyncio.all_tasks() - others)
    with pytest.raises(Unusable):
        await client.call(never_sent)
    gc.collect()

    assert logged == []
