"""No user's data reaches another: not in a reply, not in a prompt, not in a log. At length: `tests.bench.tenants`."""

from pathlib import Path

import pytest

from tests.harness.credentials import authentication
from tests.harness.servers import service_in_process
from tests.harness.service_log import ServiceLog
from tests.harness.tenants import Tenants

USERS, CALLS = 20, 40


async def test_random_calls_with_the_ids_of_others_reach_only_ones_own_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenants = Tenants(USERS)
    log = ServiceLog(capsys)
    overrides = {"llm": tenants.llm, "authenticate": tenants.authenticate}
    stores = {"history_backend": "sql", "memory_backend": "sql", "data_dir": tmp_path, "memory_recall_timeout": 30}
    async with service_in_process(overrides, **stores, **authentication(), debug=True) as service:
        await tenants.call_at_random(service.client, CALLS)

    assert tenants.crossings == []
    assert tenants.prompts_with_several_canaries() == []
    assert tenants.in_log(log.text) == set()
    assert len(log.events("request")) == USERS * CALLS
    assert set(tenants.statuses) == {200, 201, 403, 404}
