"""Settings that do not depend on the machine that runs the tests."""

from pathlib import Path

import pytest

from entrypoints.env_file import ALIASES
from entrypoints.settings import Settings


def isolate_settings(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Remove all settings from the environment, and work in `directory`, which has no `.env`."""
    for name in (*Settings.model_fields, *ALIASES, "SSL_CERT_FILE"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(directory)
