"""The versions of Qdrant's client and server."""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.mem0_library.vector_stores import compare_versions

OURS = version("qdrant-client")


class Server:
    def __init__(self, version: str | None) -> None:
        self._version = version

    def info(self) -> Any:
        if self._version is None:
            raise ConnectionRefusedError
        return SimpleNamespace(version=self._version)


@pytest.mark.parametrize(
    ("theirs", "logged"), [(OURS, []), ("0.1.0", [{"client": OURS, "server": "0.1.0"}]), (None, [])]
)
def test_a_server_of_an_incompatible_version_is_logged(theirs: str | None, logged: list[dict[str, str]]) -> None:
    with capture_logs() as log:
        compare_versions(Server(theirs))

    assert logged == [{"client": line["client"], "server": line["server"]} for line in log]
