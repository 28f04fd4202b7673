"""`smart-chatbot serve`: run the service."""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pydantic import SecretStr

from domain.errors import Unusable
from entrypoints.exit_status import UNUSABLE
from entrypoints.file_descriptors import raise_limit
from entrypoints.listener import listen, url_of
from entrypoints.observability import configure_logging
from entrypoints.program import program
from entrypoints.settings import Settings
from entrypoints.sharing import require_shareable
from entrypoints.standard_streams import LossyWriter, warn
from entrypoints.startup_warnings import proxy_before_the_model

if TYPE_CHECKING:
    from entrypoints.cli.reload import SettingsToReload
    from entrypoints.lifespan import Lifespan
    from entrypoints.shutdown import Shutdown

LOCAL_MODEL_NOTICE = """\
Using the embedded model: a toy with 135 million parameters for trying things out. Expect fluent nonsense.
For a real model set OPENAI_API_KEY (or OPENAI_BASE_URL) in .env or in the environment, and restart.
"""

BANNER = """\
{name} listens on {address}
  API documentation   {address}/docs
  Try it              curl -N {address}/api/chat -H 'Content-Type: application/json'{credential} \\
                        -d '{{"user_id": "user123", "message": "What is the capital of France?"}}'
  Or in a terminal    {program} chat --url {address}
"""
CREDENTIAL = ' \\\n                        -H "Authorization: Bearer $SMART_CHATBOT_KEY"'
"""Of the environment variable that `smart-chatbot chat` reads, too."""

PAGE_LINE = "  Or in a browser     {address}/\n"


@dataclass(frozen=True)
class Served:
    """A server that has stopped."""

    started: bool
    lifespan: "Lifespan"
    shutdown: "Shutdown"

    def exit(self) -> NoReturn:
        """End the process, with status 1 if something did not close in time.

        Raises:
            Unusable: A store that the service waited for cannot be used.
        """
        if isinstance(self.lifespan.failure, Unusable):
            raise self.lifespan.failure
        if not self.shutdown.hung and (not self.started or self.lifespan.failure is not None):
            sys.exit(UNUSABLE)
        self.shutdown.exit()


def serve(
    settings: Settings, *, local: bool = False, workers: int = 1, reloading: "SettingsToReload | None" = None
) -> int:
    """Serve until a signal stops the process.

    Returns the exit status of several workers, or of a service that restarts. A single one ends the process itself,
    with status 1 if something did not close in time.

    `local` starts the embedded model and replies with it. More than one worker are processes of their own. With
    `reloading`, the service restarts when its source changes, or the file of these settings.

    Raises:
        Unusable: No model is configured, the embedded model cannot run, the address is unavailable or open to other
            machines without authentication, several workers cannot share a store, or a store that the service waited
            for cannot be used.
    """
    if workers > 1:
        require_shareable(settings)
    with ExitStack() as stack:
        changes: dict[str, object] = {}
        if local:
            changes = _local_model(settings, stack)
            settings = settings.model_copy(update=changes)
            for sentence in proxy_before_the_model(settings):
                warn(sentence)
            if not settings.leaves_room_for_messages:
                raise Unusable("SYSTEM_PROMPT: leaves no room for messages within the embedded model's context")
        settings.require_model()
        settings.require_authentication()
        if settings.auth == "none" and not settings.is_loopback:
            warn(f"Listening on {settings.host}: every client that reaches it can read and write all conversations.")
        greet = partial(_greet, settings, local)
        raise_limit()
        with listen(settings) as listener:
            if workers > 1:
                return _supervise(settings, listener, workers, greet)
            if reloading is not None:
                from entrypoints.cli.reload import serve_and_reload

                configure_logging(settings)
                greet(url_of(listener))
                return serve_and_reload(listener, reloading, changes)
            served = run_server(settings, listener, greet)
    return served.exit()


def run_server(
    settings: Settings,
    listener: socket.socket,
    on_started: Callable[[str], None],
    *,
    on_alive: Callable[[], None] | None = None,
) -> Served:
    """Serve on `listener` in this process until a signal stops it. `on_started` is called with the server's URL.

    `on_alive` is for a worker of a supervisor: it is called every second.
    """
    gc.disable()  # until the server has started: objects created by imports and wiring stay alive anyway
    from entrypoints.http.app import create_app
    from entrypoints.server import DrainingServer

    app = create_app(settings)
    server = DrainingServer(app, on_started, on_alive)
    server.run([listener])
    return Served(server.started, app.state.lifespan, app.state.container.shutdown())


def _greet(settings: Settings, local: bool, address: str) -> None:
    """Tell the operator where the service listens, and how to try it."""
    banner = BANNER + (PAGE_LINE if settings.chat_page else "") + (LOCAL_MODEL_NOTICE if local else "")
    credential = "" if settings.auth == "none" else CREDENTIAL
    text = banner.format(name=settings.app_name, address=address, program=program(), credential=credential)
    LossyWriter(sys.stdout).write(text)


def _supervise(settings: Settings, listener: socket.socket, workers: int, greet: Callable[[str], None]) -> int:
    from entrypoints.supervisor import Supervisor
    from entrypoints.worker_process import WorkerProcess

    configure_logging(settings)
    address = url_of(listener)

    async def run() -> int:
        start = partial(WorkerProcess.start, settings, listener)
        supervisor = Supervisor(start, workers, partial(greet, address), grace=settings.shutdown_grace)
        status = await supervisor.run()
        if supervisor.refusal:
            raise Unusable(supervisor.refusal)
        return status

    return asyncio.run(run())


def _local_model(settings: Settings, stack: ExitStack) -> dict[str, object]:
    """Start the embedded model; return the settings that it needs."""
    from entrypoints.local_model import local_model

    model = stack.enter_context(local_model())
    return {
        "openai_base_url": model.base_url,
        "openai_api_key": SecretStr(model.api_key),
        "openai_model": model.model,
        "openai_max_tokens": min(settings.openai_max_tokens, model.max_tokens),
        "context_tokens": min(settings.context_tokens, model.context_tokens),
        # The model has no embeddings, and Mem0's extraction prompt exceeds its context.
        "mem0_embedder": "local",
        "mem0_infer": False,
    }
