"""A model's service as Mem0 uses it, over a real socket: vectors for texts, and facts drawn from a conversation.

    with memory_upstream_in_thread() as upstream: ...

It answers beside any event loop, so that several tests may share it. Its faults are those of scripted_faults.py.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from math import sqrt
from pathlib import Path
from typing import Any
from zlib import crc32

from adapters.memory_mem0 import MemoryMem0
from domain.memory import words
from tests.harness.scripted_faults import find
from tests.harness.scripted_upstream import Call, ScriptedUpstream, serving_in_thread

DIMENSIONS = 1536
"""Of the vectors; what Mem0 expects of OpenAI's usual model."""

API_KEY = "sk-of-the-memory"

NEW_MESSAGES = re.compile(r"^## New Messages\n(.*?)\n\n## Observation Date", re.DOTALL | re.MULTILINE)
USER_LINE = re.compile(r"^user: (.*?)$(?=\n(?:user|assistant): |\n*\Z)", re.DOTALL | re.MULTILINE)


def vector(text: str) -> list[float]:
    """A bag of words: texts are alike as far as they share words; the same text always has the same vector."""
    counts = [0.0] * DIMENSIONS
    counts[0] = 0.1  # a text without words has a direction too, which is hardly anyone else's
    for word in words(text):
        counts[1 + crc32(word.encode()) % (DIMENSIONS - 1)] += 1
    length = sqrt(sum(count * count for count in counts))
    return [count / length for count in counts]


def what_the_user_said(prompt: str) -> Sequence[str]:
    """The facts in Mem0's prompt for extraction: each of the user's new messages, as it is."""
    found = NEW_MESSAGES.search(prompt)
    return USER_LINE.findall(found[1]) if found else []


class MemoryUpstream(ScriptedUpstream):
    """`embedding_fault` and `extraction_fault` are names of scripted faults that answer instead."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_fault = ""
        self.extraction_fault = ""
        self.extract: Callable[[str], Sequence[str]] = what_the_user_said
        self.refused_parameters: Set[str] = frozenset()
        self.answer: Any = None
        """Text that the model gives for facts, instead of facts in the right form."""

    def _accept(self) -> Call:
        self._calls.append(MemoryCall(self))
        return self._calls[-1]

    @property
    def prompts(self) -> Sequence[str]:
        """What extraction was asked, without Mem0's instructions."""
        return [request.body["messages"][-1]["content"] for request in self.requests if "messages" in request.body]


class MemoryCall(Call):
    upstream: MemoryUpstream

    async def _answer(self, method: str) -> None:
        if self.request.body.get("stream"):  # a chat
            return await super()._answer(method)
        upstream = self.upstream
        upstream.requests.append(self.request)
        upstream.open += 1
        try:
            embedding = self.request.path.endswith("/embeddings")
            name = upstream.embedding_fault if embedding else upstream.extraction_fault
            if name:
                fault, self.numbers = find(name)
                await fault(self)
            elif embedding:
                self._embed()
            else:
                self._extract()
        finally:
            upstream.open -= 1

    def _embed(self) -> None:
        texts = self.request.body["input"]
        data = [{"object": "embedding", "index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
        self.whole(200, {"object": "list", "model": "bag-of-words", "data": data})

    def _extract(self) -> None:
        for parameter in self.upstream.refused_parameters & set(self.request.body):
            return self.refuse(400, f"Unsupported parameter: {parameter}", "unsupported_parameter", parameter)
        prompt = self.request.body["messages"][-1]["content"]
        facts = [{"id": str(n), "text": text} for n, text in enumerate(self.upstream.extract(prompt))]
        answer = json.dumps({"memory": facts}) if self.upstream.answer is None else self.upstream.answer
        message = {"role": "assistant", "content": answer}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return self.whole(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices})


@contextmanager
def memory_upstream_in_thread() -> Iterator[MemoryUpstream]:
    upstream = MemoryUpstream()
    with serving_in_thread(upstream):
        yield upstream


@asynccontextmanager
async def open_mem0(data_dir: Path, upstream: MemoryUpstream, **choices: Any) -> AsyncIterator[MemoryMem0]:
    memory = MemoryMem0(
        **{"data_dir": data_dir, "api_key": API_KEY, "base_url": upstream.base_url, "model": "extractor", **choices}
    )
    await memory.open()
    try:
        yield memory
    finally:
        await memory.close()
