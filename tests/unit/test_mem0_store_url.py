"""Mem0's section for the URL of a vector store."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters.mem0_library.store_url import vector_store_section
from domain.errors import Unusable

COMMON = {"collection_name": "memories"}


def section(url: str | None) -> Mapping[str, object]:
    return vector_store_section(url, Path("/somewhere"))


def test_without_a_url_qdrant_is_embedded_in_the_directory() -> None:
    assert section(None) == {
        "provider": "qdrant",
        "config": {**COMMON, "path": "/somewhere/qdrant", "on_disk": True},
    }


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://127.0.0.1:7777", {"host": "127.0.0.1", "port": 7777, "https": False}),
        ("https://qdrant.example", {"host": "qdrant.example", "port": 6333, "https": True}),
        ("http://[::1]:6333/", {"host": "[::1]", "port": 6333, "https": False}),
        ("https://:key@qdrant.example:443", {"url": "https://qdrant.example:443", "api_key": "key"}),
        ("https://:k%2Fey@qdrant.example", {"url": "https://qdrant.example:6333", "api_key": "k/ey"}),
    ],
)
def test_an_http_url_is_a_qdrant_server(url: str, server: Mapping[str, object]) -> None:
    assert section(url) == {"provider": "qdrant", "config": {**COMMON, **server}}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgresql_gets_timeouts_and_no_approximate_index(scheme: str) -> None:
    config = section(f"{scheme}://ada:key@127.0.0.1/memories?connect_timeout=3")["config"]
    assert isinstance(config, dict)
    connection = config.pop("connection_string").split(" ")

    assert config == {**COMMON, "hnsw": False, "maxconn": 10}
    assert {"user=ada", "password=key", "host=127.0.0.1", "dbname=memories", "connect_timeout=3"} <= set(connection)
    assert "statement_timeout=20000" in " ".join(connection)


@pytest.mark.parametrize(
    "url", ["", "redis://secret@x", "http://", "http://secret:x", "postgresql://secret?what=ever", "secret"]
)
def test_any_other_url_is_rejected_without_repeating_it(url: str) -> None:
    with pytest.raises(Unusable) as error:
        section(url)

    assert "secret" not in str(error.value)
