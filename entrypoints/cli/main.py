"""The command `smart-chatbot`: serve, chat, migrate, check."""

import argparse
import gc
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

from pydantic import SecretStr

from entrypoints.settings import Settings, SettingsError, load_settings, require_memory, require_model, unknown_keys

BACKLOG = 2048
"""Connections that may wait to be accepted."""

UNUSABLE = 3
"""Exit status when the configuration, or what it points at, can not be used."""

TOY_MODEL = """\
Answering with the embedded model: a toy of 135 million parameters for trying things out. Expect fluent nonsense.
For a real model set OPENAI_API_KEY (or OPENAI_BASE_URL) in .env or in the environment, and start again.
"""

BANNER = """\
{name} listens on {address}
  API documentation   {address}/docs
  Try it              curl -N {address}/api/chat -H 'Content-Type: application/json' \\
                        -d '{{"user_id": "user123", "message": "What is the capital of France?"}}'
  Or in a terminal    smart-chatbot chat --url {address}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 2 (usage) or 3 (unusable configuration)."""
    parsed = _parser().parse_args(arguments)
    try:
        sys.exit(parsed.run(parsed))
    except SettingsError as refusal:
        sys.exit(_refuse(str(refusal)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smart-chatbot", description="A chatbot backend over HTTP.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(run=run)
        return added

    serve = command("serve", _serve, "start the service")
    serve.add_argument(
        "--local",
        nargs="?",
        const="always",
        choices=("always", "auto"),
        help="answer with the embedded model; with 'auto' only where no other model is configured",
    )
    chat = command("chat", _chat, "talk to a running service")
    chat.add_argument("--url", default="http://127.0.0.1:8000", help="where it listens (default: %(default)s)")
    chat.add_argument("--user", default="terminal", help="whose conversation (default: %(default)s)")
    chat.add_argument("--conversation", default="default", help="which one of theirs (default: %(default)s)")
    command("migrate", _migrate, "bring the database's tables up to date")
    command("check", _check, "validate the configuration and say what it would use")
    return parser


def _serve(parsed: argparse.Namespace) -> int:
    settings = _settings()
    with ExitStack() as stack:
        local = parsed.local == "always" or (parsed.local == "auto" and not settings.has_model)
        if local:
            settings = _with_local_model(settings, stack)
        require_model(settings)
        require_memory(settings)
        if not settings.is_loopback:
            _warn(f"Listening on {settings.host}: anyone who reaches it can read and write every conversation.")
        return _run_server(settings, TOY_MODEL if local else "")


def _with_local_model(settings: Settings, stack: ExitStack) -> Settings:
    from entrypoints.local_model import LocalModelUnavailable, local_model

    try:
        model = stack.enter_context(local_model())
    except LocalModelUnavailable as unavailable:
        raise SettingsError(str(unavailable)) from None
    return settings.model_copy(
        update={
            "openai_base_url": model.base_url,
            "openai_api_key": SecretStr(model.api_key),
            "openai_model": model.model,
            "openai_max_tokens": min(settings.openai_max_tokens, model.max_tokens),
            "context_tokens": min(settings.context_tokens, model.context_tokens),
            # It neither embeds nor has room for the prompt that has facts extracted.
            "mem0_embedder": "local",
            "mem0_infer": False,
        }
    )


def _run_server(settings: Settings, notice: str) -> int:
    def greet(address: str) -> None:
        print(BANNER.format(name=settings.app_name, address=address) + notice, flush=True)

    with _listening(settings) as listener:
        gc.disable()  # until the server has started: what is imported and built stays
        from entrypoints.http.app import create_app
        from entrypoints.server import DrainingServer

        server = DrainingServer(create_app(settings), greet)
        server.run([listener])
    return 0 if server.started else UNUSABLE


def _listening(settings: Settings) -> socket.socket:
    """The socket to serve on, taken before anything else is touched."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        cause = str(error.strerror).partition(" (")[0]
        raise SettingsError(f"Can not listen on {settings.host}, port {settings.port}: {cause}.") from None


def _chat(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.terminal_chat import TerminalChat

    return TerminalChat(parsed.url, parsed.user, parsed.conversation).run()


def _migrate(_parsed: argparse.Namespace) -> int:
    settings = _settings()
    if not settings.uses_database:
        print("Nothing to migrate: neither history nor memory is kept in a database.")
        return 0
    from adapters.sql.databases import database_at
    from domain.errors import Unusable

    try:
        database_at(settings.database).migrate()
    except Unusable as unusable:
        return _refuse(str(unusable))
    print("The database is up to date.")
    return 0


def _check(_parsed: argparse.Namespace) -> int:
    settings = _settings()
    where = urlsplit(settings.openai_base_url).hostname if settings.openai_base_url else "OpenAI"
    kept = settings.database if settings.history_backend == "sql" else "memory, until the process ends"
    print(f"model     {settings.openai_model} at {where}" if settings.has_model else "model     none; see below")
    print(f"history   {kept}")
    print(f"memory    {settings.memory_backend}")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"address   http://{host}:{settings.port}")
    require_model(settings)
    require_memory(settings)
    return 0


def _settings() -> Settings:
    settings = load_settings()
    for sentence in unknown_keys():
        _warn(sentence)
    return settings


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return UNUSABLE
