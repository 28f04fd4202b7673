"""The command `smart-chatbot`: parse the arguments and run the subcommand."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from domain.errors import Unusable
from entrypoints.exit_status import UNUSABLE
from entrypoints.settings import Settings, environment, load_settings
from entrypoints.signals import signals_handled
from entrypoints.standard_streams import warn
from entrypoints.startup_warnings import startup_warnings

MAX_WORKERS = 64
"""A hundred sessions are what PostgreSQL allows by default, and each worker uses several."""

CHAT_KEY: Final = "SMART_CHATBOT_KEY"
"""Environment variable with the credential of the terminal chat."""

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 on a usage error, 3 if the configuration cannot be used."""
    parsed = _parser().parse_args(arguments)
    try:
        sys.exit(parsed.run(parsed))
    except Unusable as unusable:
        print(unusable, file=sys.stderr)
        sys.exit(UNUSABLE)


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
        help="use the embedded model; 'auto': only if no other model is configured",
    )
    serve.add_argument(
        "--workers",
        type=_number_of_workers,
        default=1,
        metavar="N",
        help="processes that share the address, restarted if they end; more than one needs PostgreSQL",
    )
    chat = command("chat", _chat, "chat with a running service in the terminal")
    chat.add_argument("--url", default="http://127.0.0.1:8000", help="base URL of the service (default: %(default)s)")
    chat.add_argument("--user", help="user id (default: that of the token, or terminal)")
    chat.add_argument("--conversation", default="default", help="conversation id (default: %(default)s)")
    chat.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"file with an API key or a token (default: the environment variable {CHAT_KEY})",
    )
    migrate = command("migrate", _migrate, "create or upgrade the database schema")
    migrate.add_argument(
        "--check", action="store_true", help="change nothing; exit with status 1 if there is something to migrate"
    )
    backup = command("backup", _backup, "copy the database of a service, which may be running, to a new file")
    backup.add_argument("file", metavar="FILE", type=Path, help="file to create")
    copy = command("copy", _copy, "copy a database to another, empty one, e.g. from SQLite to PostgreSQL")
    copy.add_argument("--from", dest="source", metavar="URL", help="database to copy (default: DATABASE_URL)")
    copy.add_argument("--to", dest="target", metavar="URL", help="database to fill (default: DATABASE_URL)")
    copy.add_argument("misplaced", nargs="*", help=argparse.SUPPRESS)  # argparse would print it, with its password
    copy.set_defaults(usage_error=copy.error)
    keys = command("keys", _keys, "create, list and revoke API keys")
    _add_keys_commands(keys)
    check = command("check", _check, "validate the configuration and print a summary")
    check.add_argument(
        "--live",
        action="store_true",
        help="also send a request to the model, the embedder and each store; creates or upgrades the database",
    )
    return parser


def _add_keys_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    create = actions.add_parser("create", help="create a key and print it, which is the only time it can be seen")
    create.add_argument(
        "--role", required=True, choices=("service", "admin"), help="what its client may do; 'service': act for users"
    )
    create.add_argument("--name", default="", metavar="N", help="what to call it in lists")
    create.add_argument(
        "--prefix", default="", metavar="P", help="limit a service to users whose ids begin like this, e.g. acme:"
    )
    create.add_argument("--expires", type=_duration, metavar="90d", help="how long it is valid: days, h, m or s")
    actions.add_parser("list", help="list all keys, without their secrets")
    revoke = actions.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", metavar="ID", help="the id of a key, as listed")


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError("must be a number of days, hours, minutes or seconds, e.g. 90d, 12h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _number_of_workers(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_WORKERS):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_WORKERS}")
    return int(text)


# Each command imports its module only when it runs, so that `chat` does not wait for the imports of `serve`.


def _serve(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.serve import serve

    settings = _settings()
    local = parsed.local == "always" or (parsed.local == "auto" and not settings.has_model)
    return serve(settings, local=local, workers=parsed.workers)


def _chat(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.chat import TerminalChat

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C stops a reply
        credential = _credential(parsed.key_file)
        return TerminalChat(parsed.url, parsed.user, parsed.conversation, credential).run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _credential(file: Path | None) -> str | None:
    """Return the credential in the file, or else in the environment: options are seen by other users of the machine."""
    if file is None:
        name, text = CHAT_KEY, environment().get(CHAT_KEY, "").strip()
        if not text:
            return None
    else:
        name = str(file)
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"--key-file: {file} cannot be read ({type(error).__name__})") from None
    if not re.fullmatch("[!-~]+", text):
        raise Unusable(f"{name}: must contain one API key or token, and nothing else")
    return text


def _migrate(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.migrate import migrate, needs_migration

    if parsed.check:
        needed, sentence = needs_migration(_settings())
        print(sentence)
        return int(needed)
    print(migrate(_settings()))
    return 0


def _backup(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.backup import backup

    os.nice(10)  # a service on the same machine comes first
    try:
        with signals_handled(signal.default_int_handler):
            print(backup(_settings(), parsed.file))
    except KeyboardInterrupt:
        raise Unusable("The backup was interrupted; there is no new file.") from None
    return 0


def _copy(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.copy import InterruptibleCopy

    if parsed.misplaced or (parsed.source is None and parsed.target is None):
        parsed.usage_error("give at least one URL, as --from URL or --to URL")
    copy = InterruptibleCopy(_settings(), parsed.source, parsed.target)
    with signals_handled(copy.interrupt):
        print(copy.run())
    return 0


def _keys(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.keys import Keys

    keys = Keys(_settings())
    if parsed.action == "create":
        keys.create(parsed.role, parsed.name, parsed.prefix, parsed.expires)
    elif parsed.action == "list":
        keys.list()
    else:
        keys.revoke(parsed.id)
    return 0


def _check(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.check import summary

    settings = _settings()
    print(summary(settings), flush=True)
    settings.require_model()
    settings.require_authentication()
    if not parsed.live:
        return 0
    from entrypoints.cli.check_live import check_live

    return 0 if check_live(settings) else UNUSABLE


def _settings() -> Settings:
    settings = load_settings()
    for sentence in startup_warnings(settings):
        warn(sentence)
    return settings
