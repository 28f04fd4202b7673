"""The contract suites can be inherited in any directory, and they can fail."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INHERITED = """
from contextlib import asynccontextmanager

from adapters.history_in_memory import HistoryInMemory
from tests.contract.conversation_history import ConversationHistoryContract


class TestMine(ConversationHistoryContract):
    @asynccontextmanager
    async def opened(self, directory):
        yield HistoryInMemory()
"""

FORGETFUL_HISTORY = """
from contextlib import asynccontextmanager

from adapters.history_in_memory import HistoryInMemory
from tests.contract.conversation_history import DurableHistoryContract


class TestForgetful(DurableHistoryContract):
    @asynccontextmanager
    async def opened(self, directory):
        yield HistoryInMemory()  # a new one each time
"""

FORGETFUL_OUTBOX = """
from contextlib import asynccontextmanager

from adapters.history_in_memory import HistoryInMemory
from tests.contract.memory_outbox import DurableMemoryOutboxContract


class TestForgetful(DurableMemoryOutboxContract):
    @asynccontextmanager
    async def opened(self, directory):
        yield HistoryInMemory()  # a new one each time
"""

WITHOUT_FACTORY = """
from tests.contract.conversation_history import ConversationHistoryContract


class TestMine(ConversationHistoryContract):
    pass
"""


def test_a_suite_can_be_inherited_in_another_project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(INHERITED)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # In a process of its own, because this one has imported the suites with the markers of this project.
    result = pytester.runpytest_subprocess("--strict-markers", "-W", "error", "-k", "not test_any_text")
    outcome = result.parseoutcomes()
    assert outcome["passed"] > 50
    assert {"passed", "deselected"} == outcome.keys()


@pytest.mark.parametrize("suite", [FORGETFUL_HISTORY, FORGETFUL_OUTBOX], ids=["history", "outbox"])
def test_a_store_that_loses_everything_fails_every_durability_test(pytester: pytest.Pytester, suite: str) -> None:
    pytester.makepyfile(suite)
    outcome = pytester.runpytest("-k", "reopening or dies").parseoutcomes()
    assert {"failed", "deselected"} == outcome.keys()


def test_a_suite_without_a_factory_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(WITHOUT_FACTORY)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: TestMine must define opened().*"])
