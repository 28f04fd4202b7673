"""Settings that do not depend on the machine that runs the tests."""

from pathlib import Path

import pytest

from entrypoints.configuration.env_file import ALIASES
from entrypoints.configuration.environment_names import misspelt
from entrypoints.settings import Settings, environment


def isolate_settings(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Remove all settings and what resembles one from the environment, and work in `directory`, without `.env`."""
    names = [name.upper() for name in Settings.model_fields]
    for name in (*names, *ALIASES, "SSL_CERT_FILE", "CREDENTIALS_DIRECTORY", *misspelt(environment(), names)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(directory)
