"""Fixtures for tests of whole processes."""

from collections.abc import Iterator

import pytest

from tests.harness.forks import Forks, forking_process


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts services by forking, which saves the time of the imports."""
    with forking_process() as forks:
        yield forks
