"""A scripted OpenAI-compatible service as Mem0 uses it: embeddings, and facts extracted from a conversation.

    with memory_upstream_in_thread() as upstream: ...

It runs in a thread of its own, so tests on different event loops can share it. Faults: scripted_faults.py.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any
from zlib import crc32

from adapters.memory_mem0 import MemoryMem0
from domain.memory import content_words
from tests.harness.scripted_faults import find
from tests.harness.scripted_upstream import Call, ScriptedUpstream, serving_in_thread

DIMENSIONS = 1536
"""Of the vectors, unless a test changes it."""

API_KEY = "sk-of-the-memory"

NEW_MESSAGES = re.compile(r"^## New Messages\n(.*?)\n\n## Observation Date", re.DOTALL | re.MULTILINE)
USER_LINE = re.compile(r"^user: (.*?)$(?=\n(?:user|assistant): |\n*\Z)", re.DOTALL | re.MULTILINE)


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Embed a text as a bag of words: the more words two texts share, the higher their cosine. Deterministic."""
    counts = [0.0] * dimensions
    counts[0] = 0.1  # so that a text without words has a direction, too
    for word in content_words(text):
        counts[1 + crc32(word.encode()) % (dimensions - 1)] += 1
    length = sqrt(sum(count * count for count in counts))
    return [count / length for count in counts]


def user_messages(prompt: str) -> Sequence[str]:
    """Extract facts from Mem0's prompt: each new message of the user, unchanged."""
    found = NEW_MESSAGES.search(prompt)
    return USER_LINE.findall(found[1]) if found else []


class MemoryUpstream(ScriptedUpstream):
    """`embedding_fault` and `extraction_fault` name the scripted fault to respond with; empty for none."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_fault = ""
        self.embedding_delay = 0.0
        self.dimensions = DIMENSIONS
        self.extraction_fault = ""
        self.extract: Callable[[str], Sequence[str]] = user_messages
        self.refused_parameters: Set[str] = frozenset()
        self.answer: Any = None
        """Text that the model replies with instead of well-formed facts; None for facts."""
        self.response: tuple[str, bytes] | None = None
        """Content type and body of the response to a request for facts, instead of a chat completion."""

    def _accept(self) -> Call:
        self._calls.append(MemoryCall(self))
        return self._calls[-1]

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts for extraction, without Mem0's instructions."""
        return [request.body["messages"][-1]["content"] for request in self.requests if "messages" in request.body]


class MemoryCall(Call):
    upstream: MemoryUpstream

    async def _respond(self, method: str) -> None:
        if self.request.body.get("stream"):  # a chat
            return await super()._respond(method)
        upstream = self.upstream
        upstream.requests.append(self.request)
        upstream.open += 1
        try:
            embedding = self.request.path.partition("?")[0].endswith("/embeddings")
            name = upstream.embedding_fault if embedding else upstream.extraction_fault
            if name:
                fault, self.numbers = find(name)
                await fault(self)
            elif embedding:
                await asyncio.sleep(upstream.embedding_delay)
                self._embed()
            else:
                self._extract()
        finally:
            upstream.open -= 1

    def _embed(self) -> None:
        texts = self.request.body["input"]
        dimensions = self.upstream.dimensions
        vectors = [vector(text, dimensions) for text in texts]
        data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(vectors)]
        self.respond(200, {"object": "list", "model": "bag-of-words", "data": data})

    def _extract(self) -> None:
        for parameter in self.upstream.refused_parameters & set(self.request.body):
            return self.reject(400, f"Unsupported parameter: {parameter}", "unsupported_parameter", parameter)
        if self.upstream.response:
            kind, body = self.upstream.response
            self.head(200, kind, content_length=str(len(body)))
            return self.transport.write(body)
        prompt = self.request.body["messages"][-1]["content"]
        facts = [{"id": str(n), "text": text} for n, text in enumerate(self.upstream.extract(prompt))]
        content = json.dumps({"memory": facts}) if self.upstream.answer is None else self.upstream.answer
        message = {"role": "assistant", "content": content}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return self.respond(
            200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
        )


@contextmanager
def memory_upstream_in_thread() -> Iterator[MemoryUpstream]:
    upstream = MemoryUpstream()
    with serving_in_thread(upstream):
        yield upstream


def open_mem0(data_dir: Path, upstream: MemoryUpstream, **options: Any) -> MemoryMem0:
    """Make the adapter of Mem0's library, with the upstream as its model; `async with` opens it.

    It waits for the embedder for longer than the service does, so that it is ready on a busy machine, too.
    """
    service: dict[str, Any] = {
        "data_dir": data_dir,
        "api_key": API_KEY,
        "base_url": upstream.base_url,
        "model": "extractor",
        "probe_timeout": 60,
    }
    return MemoryMem0(**{**service, "now": lambda: datetime.now(UTC), **options})
