"""Which stores several workers can share."""

from pathlib import Path
from typing import Any

import pytest

from domain.errors import Unusable
from entrypoints.settings import Settings
from entrypoints.sharing import require_shareable
from tests.harness.isolated_settings import isolate_settings

POSTGRES: dict[str, Any] = {"database_url": "postgresql://user@host/chat"}


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate_settings(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "DATABASE_URL"),
        ({"database_url": "sqlite:///chat.db"}, "DATABASE_URL"),
        ({**POSTGRES, "history_backend": "in_memory"}, "HISTORY_BACKEND"),
        ({"history_backend": "in_memory", "memory_backend": "none"}, "HISTORY_BACKEND"),
        ({**POSTGRES, "memory_backend": "in_memory"}, "MEMORY_BACKEND"),
        ({**POSTGRES, "memory_backend": "mem0"}, "MEM0_VECTOR_STORE"),
    ],
)
def test_a_store_of_a_single_process_is_refused_with_a_sentence_that_names_postgresql(
    settings: dict[str, Any], name: str
) -> None:
    with pytest.raises(Unusable, match=f"^{name}: several workers .* PostgreSQL"):
        require_shareable(Settings(_env_file=None, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"memory_backend": "none"},
        {"memory_backend": "mem0", "mem0_vector_store": "http://127.0.0.1:6333"},
        {"memory_backend": "mem0", "mem0_config_file": Path("mem0.json")},
        {"memory_backend": "mem0_platform", "mem0_api_key": "m0-key"},
    ],
)
def test_stores_that_are_servers_are_shared(settings: dict[str, Any]) -> None:
    require_shareable(Settings(_env_file=None, **POSTGRES, **settings))
