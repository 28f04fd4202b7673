"""LongTermMemory on Mem0's open-source library, in this process."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Self, TypeVar

import structlog

from adapters.mem0_library.background_loop import BackgroundLoop, LoopStopped
from adapters.mem0_library.configuration import Options
from adapters.mem0_library.memories import Memories
from adapters.mem0_library.setup import Mem0Runtime, PreparedMem0, prepare
from application.ports.memory import LongTermMemory, MemoryMisconfigured, MemoryNotReady, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.errors import Unusable
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page

T = TypeVar("T")


class MemoryMem0(LongTermMemory):
    """Facts that a model extracts from turns, recalled by meaning.

        async with MemoryMem0(
            data_dir=Path("data"), api_key=key, base_url=None, model="gpt-4o-mini", now=now
        ) as memory: ...

    `store_url` is a PostgreSQL database with pgvector (`postgresql://…`) or a Qdrant server (`http(s)://…`, with its
    key as the password). Without one, Qdrant is embedded in `data_dir`: for one process and some ten thousand memories,
    because each search compares all of them. Nothing is written outside of `data_dir` and the store. Forgotten text is
    removed from embedded Qdrant's files at once if these have up to 16 MiB, and from PostgreSQL's with its next vacuum.

    If `infer`, `model` extracts the facts of a turn; otherwise the user's message is kept as it is, unless it consists
    of questions only. Embeddings come from `embedding_model` of the same service, or, with `embedder="local"`, from a
    small model in this process. `config_file` is JSON in the form of Mem0's own configuration, which overrides all of
    this; for providers whose client is not OpenAI's, only their own timeouts apply.

    When it is opened, it embeds a test text to learn the dimensions of the embeddings. If that fails, or takes longer
    than `probe_timeout`, or if the store cannot be reached, every call raises `MemoryNotReady` with the reason until a
    later attempt succeeds. Attempts are `retry_delay` apart, then twice as long each time, up to `max_retry_delay`.

    Timeouts are in seconds. `recall` and `page` take up to `recall_timeout`, other calls up to `llm_timeout` plus
    twice `embedding_timeout`. `close` waits up to `close_grace` for running calls.
    """

    extracts_from_turns = True

    def __init__(
        self,
        *,
        data_dir: Path,
        api_key: str,
        base_url: str | None,
        model: str,
        now: Callable[[], datetime],
        embedding_model: str = "text-embedding-3-small",
        embedder: Literal["openai", "local"] = "openai",
        infer: bool = True,
        store_url: str | None = None,
        config_file: Path | None = None,
        llm_timeout: float = 60,
        embedding_timeout: float = 10,
        recall_timeout: float = 20,
        close_grace: float = 2,
        probe_timeout: float = 2,
        retry_delay: float = 2,
        max_retry_delay: float = 120,
    ) -> None:
        self._options = Options(
            directory=data_dir / "mem0",
            api_key=api_key,
            base_url=base_url,
            model=model,
            embedding_model=embedding_model,
            embedder=embedder,
            store_url=store_url,
            config_file=config_file,
            llm_timeout=llm_timeout,
            embedding_timeout=embedding_timeout,
        )
        self._infer = infer
        self._now = now
        self._recall_timeout = recall_timeout
        self._write_timeout = llm_timeout + 2 * embedding_timeout
        self._close_grace = close_grace
        self._probe_timeout = probe_timeout
        self._retry_delay = retry_delay
        self._max_retry_delay = max_retry_delay
        self._loop: BackgroundLoop | None = None
        self._prepared: PreparedMem0 | None = None
        self._probing: asyncio.Task[int] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._not_ready = MemoryNotReady()
        self._runtime: Mem0Runtime | None = None
        self._memories: Memories | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Import Mem0, probe the embedder, connect to the store, and create missing collections.

        If the embedder fails or is slow, or the store cannot be reached, return nevertheless, and keep trying in the
        background.

        Raises:
            Unusable: a package is missing, the configuration is invalid, or the store cannot be used as it is
                configured, e.g. because its vectors have other dimensions.
        """
        self._loop = loop = BackgroundLoop()
        self._prepared = self._runtime = None
        self._not_ready = MemoryNotReady()
        try:
            self._prepared = await loop.run(asyncio.to_thread(prepare, self._options), to_completion=True)
            probing = self._start_probe(loop, self._prepared)
            await asyncio.wait([probing], timeout=self._probe_timeout)
            if probing.done():
                try:
                    await self._connect(loop, self._prepared, await probing)
                    return
                except MemoryNotReady as failure:
                    self._note_not_ready(failure)
            else:
                self._note_not_ready(MemoryNotReady(self._prepared.why_slow(self._probe_timeout)))
            unfinished = None if probing.done() else probing
            self._connecting = asyncio.create_task(self._keep_connecting(loop, self._prepared, unfinished))
        except BaseException:
            await self.close()
            raise

    def _start_probe(self, loop: BackgroundLoop, prepared: PreparedMem0) -> "asyncio.Task[int]":
        self._probing = asyncio.create_task(loop.run(asyncio.to_thread(prepared.probe), to_completion=False))
        return self._probing

    async def _connect(self, loop: BackgroundLoop, prepared: PreparedMem0, dimensions: int) -> None:
        def connect() -> None:
            self._runtime = prepared.connect(dimensions)  # in the thread, so that `close` sees it in any case

        await loop.run(asyncio.to_thread(connect), to_completion=True)
        assert self._runtime is not None
        self._memories = Memories(self._runtime, self._now, infer=self._infer)

    async def _keep_connecting(
        self, loop: BackgroundLoop, prepared: PreparedMem0, probing: "asyncio.Task[int] | None"
    ) -> None:
        """Wait for the probe if one is running, and connect; try both again with exponential backoff until it works."""
        delay = self._retry_delay
        while True:
            if probing is None:
                await asyncio.sleep(delay)
                delay = min(2 * delay, self._max_retry_delay)
                probing = self._start_probe(loop, prepared)
            try:
                await self._connect(loop, prepared, await probing)
                structlog.get_logger().info("memory ready")
                return
            except MemoryNotReady as failure:
                self._note_not_ready(failure)
            except Unusable as error:
                self._note_not_ready(MemoryMisconfigured(str(error)))
            except LoopStopped:
                return
            probing = None

    def _note_not_ready(self, failure: MemoryNotReady) -> None:
        if failure.detail != self._not_ready.detail:
            structlog.get_logger().warning("memory not ready", reason=failure.detail)
        self._not_ready = failure

    async def close(self) -> None:
        """Wait for running calls and close the store. Idempotent."""
        loop, self._loop, self._memories = self._loop, None, None
        tasks = [task for task in (self._connecting, self._probing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._connecting = self._probing = None
        if loop:
            await loop.stop(self._close_runtime, grace=self._close_grace)

    def _close_runtime(self) -> None:
        if self._runtime:
            self._runtime.close()
        elif self._prepared:
            self._prepared.close()

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        return await self._write(lambda memories: memories.store(user_id, fact, importance))

    async def remember(self, turn: Turn) -> None:
        await self._write(lambda memories: memories.remember(turn))

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        return await self._read(lambda memories: memories.recall(user_id, query, limit))

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        return await self._read(lambda memories: memories.page(user_id, limit, cursor))

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        return await self._write(lambda memories: memories.correct(user_id, memory_id, fact, importance))

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        await self._write(lambda memories: memories.forget(user_id, memory_id))

    async def forget_all(self, user_id: UserId) -> bool:
        return await self._write(lambda memories: memories.forget_all(user_id))

    async def check(self) -> None:
        await self._read(lambda memories: memories.check())

    async def _read(self, operation: Callable[[Memories], Awaitable[T]]) -> T:
        return await self._call(operation, self._recall_timeout, to_completion=False)

    async def _write(self, operation: Callable[[Memories], Awaitable[T]]) -> T:
        """Run a write to completion, even if its caller is cancelled or times out."""
        return await self._call(operation, self._write_timeout, to_completion=True)

    async def _call(self, operation: Callable[[Memories], Awaitable[T]], seconds: float, *, to_completion: bool) -> T:
        if self._loop is None:
            raise MemoryUnavailable
        if self._memories is None:
            raise type(self._not_ready)(self._not_ready.detail)
        try:
            async with asyncio.timeout(seconds):
                return await self._loop.run(self._translated(operation(self._memories)), to_completion=to_completion)
        except (TimeoutError, LoopStopped):
            raise MemoryUnavailable from None

    async def _translated(self, operation: Awaitable[T]) -> T:
        """Await an operation, and translate exceptions of libraries to errors of the port."""
        assert self._runtime is not None
        try:
            return await operation
        except Exception as error:
            failure = self._runtime.translate(error)
            raise failure from failure.__cause__
