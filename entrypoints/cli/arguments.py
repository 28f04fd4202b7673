"""The arguments of `smart-chatbot`: commands, options, and what to say if they are wrong.

A wrong argument is answered with one sentence, which never quotes a value: that may be a secret.
"""

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from entrypoints.cli.setting_options import add_common_settings, add_settings
from entrypoints.exit_status import USAGE
from entrypoints.program import NAME, program
from entrypoints.settings import ENV_FILE

MAX_WORKERS: Final = 64
"""A hundred sessions are what PostgreSQL allows by default, and each worker uses several."""

CHAT_KEY: Final = "SMART_CHATBOT_KEY"
"""Environment variable with the credential of the terminal chat."""

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and reports an error in one sentence with exit status 2."""

    def __init__(self, **keywords: Any) -> None:
        fixed: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**fixed, **keywords)

    def error(self, message: str) -> NoReturn:
        help = "" if message.endswith("?") else f"; see: {program()}{self.prog.removeprefix(NAME)} --help"
        self.exit(USAGE, f"{self.prog}: {message}{help}\n")

    def options(self) -> list[str]:
        """Return the options that the help shows."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [option for action in shown for option in action.option_strings]


def parse(commands: dict[str, Run], arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; exit with status 2 if they are wrong. `run` of the result is the command's function."""
    parser = _parser(commands)
    if not arguments:
        parser.error(f"name a command: {', '.join(commands)}")
    first = arguments[0]
    if not first.startswith("-") and first not in commands:
        parser.error(f"there is no such command{_nearest(first, commands)}")
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        _reject(parsed.parser, unknown[0])
    return parsed


def _reject(parser: Parser, argument: str) -> NoReturn:
    if not argument.startswith("-"):
        parser.error("there is an unexpected argument")
    option = argument.partition("=")[0]
    if not re.fullmatch(r"--?[A-Za-z][\w-]*", option, re.ASCII):
        parser.error("an argument that begins with - is no option")
    parser.error(f"there is no option {option[:40]}{_nearest(option, parser.options())}")


def _nearest(name: str, known: Sequence[str] | dict[str, Run]) -> str:
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _parser(commands: dict[str, Run]) -> Parser:
    parser = Parser(
        prog=NAME,
        description="A chatbot backend over HTTP.",
        epilog=f"Examples:\n  {NAME} serve --local\n  {NAME} serve --port 9000\n  {NAME} chat",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, help: str, **keywords: Any) -> Parser:
        added: Parser = subparsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", **keywords)
        added.set_defaults(run=commands[name], parser=added)
        return added

    _add_serve_options(
        command(
            "serve",
            "start the service",
            usage="%(prog)s [OPTION]…",
            epilog=f"Examples:\n  {NAME} serve --local\n  {NAME} serve --host 0.0.0.0 --port 9000 --auth-mode api_key\n"
            f"  {NAME} serve --reload --root-path /bot --env-file staging.env",
        )
    )
    _add_chat_options(
        command(
            "chat",
            "chat with a running service in the terminal",
            epilog=f'Examples:\n  {NAME} chat\n  echo "What is the capital of France?" | {NAME} chat\n'
            f"  {NAME} chat --url https://example.org/bot --key-file key.txt",
        )
    )
    migrate = command("migrate", "create or upgrade the database schema")
    migrate.add_argument(
        "--check", action="store_true", help="change nothing; exit with status 1 if there is something to migrate"
    )
    backup = command("backup", "copy the database of a service, which may be running, to a new file")
    backup.add_argument("file", metavar="FILE", type=Path, help="file to create")
    copy = command("copy", "copy a database to another, empty one, e.g. from SQLite to PostgreSQL")
    copy.add_argument("--from", dest="source", metavar="URL", help="database to copy (default: DATABASE_URL)")
    copy.add_argument("--to", dest="target", metavar="URL", help="database to fill (default: DATABASE_URL)")
    keys = command("keys", "create, list and revoke API keys")
    _add_keys_commands(keys)
    check = command("check", "validate the configuration and print a summary")
    check.add_argument(
        "--live",
        action="store_true",
        help="also send a request to the model, the embedder and each store; creates or upgrades the database",
    )
    for reader in (migrate, backup, copy, check):
        _add_env_file(reader)
    return parser


def _add_serve_options(serve: Parser) -> None:
    add_common_settings(serve)
    _add_env_file(serve)
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
    serve.add_argument(
        "--reload", action="store_true", help="for development: restart when the source or the file of settings changes"
    )
    add_settings(serve)


def _add_env_file(parser: Parser) -> None:
    parser.add_argument("--env-file", type=Path, metavar="FILE", help=f"file of settings to read instead of {ENV_FILE}")


def _add_chat_options(chat: Parser) -> None:
    chat.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        help="base URL of the service, with the path prefix of a proxy if there is one (default: %(default)s)",
    )
    chat.add_argument("--user", help="user id (default: that of the token, or terminal)")
    chat.add_argument("--conversation", default="default", help="conversation id (default: %(default)s)")
    chat.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"file with an API key or a token (default: the environment variable {CHAT_KEY})",
    )


def _add_keys_commands(parser: Parser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION", parser_class=Parser)
    create = actions.add_parser("create", help="create a key and print it, which is the only time it can be seen")
    create.add_argument(
        "--role", required=True, choices=("service", "admin"), help="what its client may do; 'service': act for users"
    )
    create.add_argument("--name", default="", metavar="N", help="what to call it in lists")
    create.add_argument(
        "--prefix", default="", metavar="P", help="limit a service to users whose ids begin like this, e.g. acme:"
    )
    create.add_argument("--expires", type=_duration, metavar="90d", help="how long it is valid: days, h, m or s")
    listing = actions.add_parser("list", help="list all keys, without their secrets")
    revoke = actions.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", metavar="ID", help="the id of a key, as listed")
    for action in (create, listing, revoke):
        action.set_defaults(parser=action)
        _add_env_file(action)


class _Version(argparse.Action):
    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        from entrypoints.version import VERSION

        print(f"{NAME} {VERSION}")
        parser.exit()


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError("must be a number of days, hours, minutes or seconds, e.g. 90d, 12h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _number_of_workers(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_WORKERS):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_WORKERS}")
    return int(text)
