"""`smart-chatbot serve`: run the service."""

import gc
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pydantic import SecretStr

from domain.errors import Unusable
from entrypoints.settings import Settings
from entrypoints.standard_streams import LossyWriter, warn
from entrypoints.startup_warnings import proxy_before_the_model

if TYPE_CHECKING:
    from entrypoints.lifespan import Lifespan
    from entrypoints.shutdown import Shutdown

LOCAL_MODEL_NOTICE = """\
Using the embedded model: a toy with 135 million parameters for trying things out. Expect fluent nonsense.
For a real model set OPENAI_API_KEY (or OPENAI_BASE_URL) in .env or in the environment, and restart.
"""

BANNER = """\
{name} listens on {address}
  API documentation   {address}/docs
  Try it              curl -N {address}/api/chat -H 'Content-Type: application/json' \\
                        -d '{{"user_id": "user123", "message": "What is the capital of France?"}}'
  Or in a terminal    smart-chatbot chat --url {address}
"""


def serve(settings: Settings, *, local: bool = False) -> bool:
    """Serve until a signal stops the process; return whether the service started.

    Does not return, but ends the process with status 1, if something did not close in time.

    `local` starts the embedded model and replies with it.

    Raises:
        Unusable: No model is configured, the embedded model cannot run, the address is unavailable, or a store that the
            service waited for cannot be used.
    """
    with ExitStack() as stack:
        if local:
            settings = _with_local_model(settings, stack)
            for sentence in proxy_before_the_model(settings):
                warn(sentence)
            if not settings.leaves_room_for_messages:
                raise Unusable("SYSTEM_PROMPT: leaves no room for messages within the embedded model's context")
        settings.require_model()
        if not settings.is_loopback:
            warn(f"Listening on {settings.host}: every client that reaches it can read and write all conversations.")
        started, lifespan, shutdown = _run_server(settings, LOCAL_MODEL_NOTICE if local else "")
    if isinstance(lifespan.failure, Unusable):
        raise lifespan.failure
    shutdown.exit_if_hung()
    return started and lifespan.failure is None


def _with_local_model(settings: Settings, stack: ExitStack) -> Settings:
    from entrypoints.local_model import local_model

    model = stack.enter_context(local_model())
    return settings.model_copy(
        update={
            "openai_base_url": model.base_url,
            "openai_api_key": SecretStr(model.api_key),
            "openai_model": model.model,
            "openai_max_tokens": min(settings.openai_max_tokens, model.max_tokens),
            "context_tokens": min(settings.context_tokens, model.context_tokens),
            # The model has no embeddings, and Mem0's extraction prompt exceeds its context.
            "mem0_embedder": "local",
            "mem0_infer": False,
        }
    )


def _run_server(settings: Settings, notice: str) -> "tuple[bool, Lifespan, Shutdown]":
    def greet(address: str) -> None:
        LossyWriter(sys.stdout).write(BANNER.format(name=settings.app_name, address=address) + notice)

    with _listen(settings) as listener:
        gc.disable()  # until the server has started: objects created by imports and wiring stay alive anyway
        from entrypoints.http.app import create_app
        from entrypoints.server import DrainingServer

        app = create_app(settings)
        server = DrainingServer(app, greet)
        server.run([listener])
    return server.started, app.state.lifespan, app.state.container.shutdown()


def _listen(settings: Settings, backlog: int = 2048) -> socket.socket:
    """Bind the listening socket, before anything else is touched. `backlog` limits pending connections."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=backlog)
    except OSError as error:
        cause = str(error.strerror).partition(" (")[0]
        raise Unusable(
            f"Cannot listen on {settings.host}, port {settings.port}: {cause}; check HOST and PORT."
        ) from None
