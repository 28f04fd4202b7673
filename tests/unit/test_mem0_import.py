"""Importing mem0 when it is not installed or cannot create its directory."""

import sys
from pathlib import Path

import pytest

from adapters.mem0_import import import_mem0
from domain.errors import Unusable


class FailingFinder:
    """Raises an exception when mem0 is imported."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "mem0":
            raise self._error


@pytest.fixture
def mem0_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEM0_TELEMETRY", "False")  # both are restored after the test
    monkeypatch.setenv("MEM0_DIR", "")
    monkeypatch.delitem(sys.modules, "mem0", raising=False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("secret"),
            'Mem0 is not installed; run: pip install "mem0ai>=2.2" "psycopg[binary,pool]>=3.3"',
        ),
        (PermissionError(13, "Permission denied", "secret"), "Mem0 cannot keep its files in /data: Permission denied."),
    ],
)
def test_a_failing_import_is_explained_in_one_sentence(
    error: Exception, message: str, mem0_not_imported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [FailingFinder(error), *sys.meta_path])
    with pytest.raises(Unusable) as unusable:
        import_mem0(Path("/data"))

    assert message == str(unusable.value)
