"""The service with a model that blocks the event loop for hours.

python -m tests.harness.apps.blocking_service sleep | lock

`sleep` lets other threads run; `lock` keeps the interpreter's lock, so that none can.
"""

import ctypes
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dependency_injector import providers

from application.ports.llm import AS_CONFIGURED, Reply, ReplyOptions
from domain.conversation import Message
from entrypoints.container import Container
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import load_settings
from tests.harness.fakes import ScriptedLLM


class BlockingLLM(ScriptedLLM):
    def __init__(self, *, keeps_lock: bool) -> None:
        super().__init__()
        self._sleep = ctypes.PyDLL(None).sleep if keeps_lock else time.sleep

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        print("blocked", flush=True)
        for _ in range(100):  # signals interrupt one of the two
            self._sleep(3600)
        async with super().reply(messages, max_tokens, options) as reply:
            yield reply


def main(arguments: Sequence[str]) -> None:
    settings = load_settings()
    container = Container(settings=settings)
    container.upstream.override(providers.Object(BlockingLLM(keeps_lock=arguments[0] == "lock")))
    app = create_app(settings, container)
    listener = socket.create_server((settings.host, settings.port))
    DrainingServer(app, lambda url: print(f"listens on {url}", flush=True)).run([listener])


if __name__ == "__main__":
    main(sys.argv[1:])
