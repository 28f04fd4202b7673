"""`smart-chatbot check --live`: try the configured model, embedder and stores."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final

import anyio

from adapters.error_translation import ForeignError
from application.ports.history import HistoryUnavailable
from application.ports.llm import LLMError
from application.ports.memory import MemoryUnavailable
from domain.context import assemble
from domain.conversation import UserId
from domain.errors import ChatError, Unusable
from entrypoints.container import Container
from entrypoints.observability import configure_logging
from entrypoints.settings import Settings

MESSAGE: Final = "Reply with OK."
USER: Final = UserId("check")
"""Owner of the memories that the embedder's check searches for; nothing is stored."""


def check_live(settings: Settings) -> bool:
    """Send a request to the model, the embedder and each store, and print a line for each. Return whether all worked.

    Opens the stores as `serve` does, which creates or upgrades the database.
    """
    configure_logging(settings)
    return anyio.run(LiveCheck(Container(settings=settings)).run)


class LiveCheck:
    """`timeout` is how many seconds each check may take."""

    def __init__(self, container: Container, *, timeout: float = 30) -> None:
        self._container = container
        self._settings: Settings = container.settings()
        self._timeout = timeout
        self._opened: list[Any] = []
        self._stack = AsyncExitStack()

    async def run(self) -> bool:
        settings, memory = self._settings, self._container.unguarded_memory
        async with self._stack:
            results = [
                await self._report("model", self._check_model),
                await self._report("history", lambda: self._check_store("history", self._container.store)),
            ]
            if settings.memory_backend != "none":
                results.append(await self._report("memory", lambda: self._check_store("memory", memory)))
            if settings.memory_backend == "mem0" and settings.mem0_embedder == "openai" and results[-1]:
                results.append(await self._report("embedder", self._check_embedder))
        return all(results)

    async def _report(self, name: str, check: Callable[[], Awaitable[str]]) -> bool:
        started = time.monotonic()
        try:
            with anyio.fail_after(self._timeout):
                result = await check()
        except Exception as error:
            print(f"{name:9} failed: {self._explain(error)}", flush=True)
            return False
        print(f"{name:9} ok: {result} ({time.monotonic() - started:.2f} s)", flush=True)
        return True

    def _explain(self, error: Exception) -> str:
        """Describe an error as the log does: by its redacted diagnosis, without the text of a provider."""
        match error:
            case Unusable():
                return str(error)
            case LLMError(diagnosis=diagnosis) if diagnosis:
                return f"{error.detail} ({', '.join(f'{name}: {value}' for name, value in diagnosis.items())})"
            case HistoryUnavailable(explanation=explanation) if explanation:
                return explanation
            case MemoryUnavailable(__cause__=Exception() as cause) if self._settings.memory_backend == "sql":
                return self._container.database().explain(cause)
            case ChatError(__cause__=ForeignError() as cause):
                return f"{error.detail} ({cause})"
            case ChatError():
                return error.detail
            case TimeoutError():
                return f"No response within {self._timeout:g} seconds."
        return f"Unexpected {type(error).__qualname__}."

    async def _check_model(self) -> str:
        llm = self._container.upstream()
        await self._open(llm)
        prompt = assemble(self._settings.system_prompt, (), MESSAGE, self._settings.context_tokens)
        async with llm.reply(prompt) as reply:
            characters = sum([len(delta) async for deltas in reply for delta in deltas])
        if not characters:
            raise Unusable(f"The reply is empty; finish reason: {reply.finish_reason}.")
        return "replied"

    async def _check_store(self, name: str, provider: Callable[[], Any]) -> str:
        if getattr(self._settings, f"{name}_backend") == "sql":
            await self._open(self._container.database())
        store = provider()
        await self._open(store)
        await store.check()
        return "responds"

    async def _check_embedder(self) -> str:
        await self._container.unguarded_memory().recall(USER, MESSAGE, 1)
        return "embedded a query"

    async def _open(self, part: Any) -> None:
        if isinstance(part, AbstractAsyncContextManager) and part not in self._opened:
            await self._stack.enter_async_context(part)
            self._opened.append(part)
