"""LongTermMemory on Mem0's open-source library, in this process."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from adapters.mem0_library.background_loop import LoopEnded, OwnLoop
from adapters.mem0_library.configuration import Choices
from adapters.mem0_library.memories import Memories
from adapters.mem0_library.setup import Opened, opened
from application.ports.memory import LongTermMemory, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page

T = TypeVar("T")


class MemoryMem0(LongTermMemory):
    """What users say, distilled by a model and found again by meaning.

    Everything that Mem0 writes goes below `data_dir`, but what is in a database or server at `store_url`
    (`postgresql://…` with pgvector, or a Qdrant server's `http(s)://…`, whose key is the password in the URL). Without
    one, Qdrant is embedded, which is for a single process and some thousand memories: each search looks at all of them.

    What was forgotten is out of embedded Qdrant's files at once, and out of PostgreSQL's with its next vacuum.

    A model called `model` draws the facts from turns where `infer`; else the user's messages are kept as they are,
    unless they only ask.
    Vectors come from `embedding_model` of the same service, or, with `embedder="local"`, from a small model in this
    process. `config_file` is JSON that is laid over all this, in the form of Mem0's own configuration; providers of
    which Mem0's client is not OpenAI's have only their own limits of time.

    Recalling and listing take `recall_timeout` seconds at most, everything else `llm_timeout` and twice as much as
    embedding takes; then it is unavailable.
    """

    extracts_from_turns = True

    def __init__(
        self,
        *,
        data_dir: Path | str,
        api_key: str,
        base_url: str | None,
        model: str,
        embedding_model: str = "text-embedding-3-small",
        embedder: Literal["openai", "local"] = "openai",
        infer: bool = True,
        store_url: str | None = None,
        config_file: Path | str | None = None,
        llm_timeout: float = 60,
        embedding_timeout: float = 10,
        recall_timeout: float = 20,
    ) -> None:
        self._choices = Choices(
            directory=Path(data_dir) / "mem0",
            api_key=api_key,
            base_url=base_url,
            model=model,
            embedding_model=embedding_model,
            embedder=embedder,
            store_url=store_url,
            config_file=Path(config_file) if config_file else None,
            llm_timeout=llm_timeout,
            embedding_timeout=embedding_timeout,
        )
        self._infer = infer
        self._recall_timeout = recall_timeout
        self._write_timeout = llm_timeout + 2 * embedding_timeout
        self._loop: OwnLoop | None = None
        self._opened: Opened | None = None
        self._memories: Memories | None = None

    async def open(self) -> None:
        """Import Mem0, connect, and make what is missing in the store.

        Raises:
            Mem0Unusable: it can not be used as it is configured, or does not reach its store.
        """
        self._loop = OwnLoop()
        try:
            self._opened = await self._loop.run(asyncio.to_thread(opened, self._choices), to_its_end=True)
        except BaseException:
            await self.close()
            raise
        self._memories = Memories(self._opened, infer=self._infer)

    async def close(self, patience: float = 2) -> None:
        """Let what is being written end, for `patience` seconds, and close the store. Also where it is not open."""
        loop, self._loop, self._memories = self._loop, None, None
        if loop:
            await loop.stop(self._close_store, patience=patience)

    def _close_store(self) -> None:
        if self._opened:
            self._opened.close()

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        return await self._write(lambda mem0: mem0.store(user_id, fact, importance))

    async def remember(self, turn: Turn) -> None:
        await self._write(lambda mem0: mem0.remember(turn))

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        return await self._read(lambda mem0: mem0.recall(user_id, query, limit))

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        return await self._read(lambda mem0: mem0.page(user_id, limit, cursor))

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        return await self._write(lambda mem0: mem0.correct(user_id, memory_id, fact, importance))

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        await self._write(lambda mem0: mem0.forget(user_id, memory_id))

    async def forget_all(self, user_id: UserId) -> bool:
        return await self._write(lambda mem0: mem0.forget_all(user_id))

    async def check(self) -> None:
        await self._read(lambda mem0: mem0.check())

    async def _read(self, work: Callable[[Memories], Awaitable[T]]) -> T:
        return await self._call(work, self._recall_timeout, to_its_end=False)

    async def _write(self, work: Callable[[Memories], Awaitable[T]]) -> T:
        """What has begun to change things goes on to its end, whoever waits for it."""
        return await self._call(work, self._write_timeout, to_its_end=True)

    async def _call(self, work: Callable[[Memories], Awaitable[T]], seconds: float, *, to_its_end: bool) -> T:
        if self._loop is None or self._memories is None:
            raise MemoryUnavailable
        try:
            async with asyncio.timeout(seconds):
                return await self._loop.run(self._explained(work(self._memories)), to_its_end=to_its_end)
        except (TimeoutError, LoopEnded):
            raise MemoryUnavailable from None

    async def _explained(self, work: Awaitable[T]) -> T:
        """The work, with errors of libraries as errors of the port."""
        assert self._opened is not None
        try:
            return await work
        except Exception as error:
            failure = self._opened.meaning(error)
            raise failure from failure.__cause__
