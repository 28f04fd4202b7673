"""A fixture for tests of the resources of connections."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """Fail the test if it leaves tasks, exceptions that were never retrieved, or open sockets."""
    before = len(asyncio.all_tasks())
    yield
    assert before == len(asyncio.all_tasks())
    gc.collect()
