"""Fixtures for tests of whole processes."""

from collections.abc import Iterator

import pytest

from tests.harness.forks import Forks, imported_once


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Services that start without importing everything again."""
    with imported_once() as forks:
        yield forks
