"""The command `smart-chatbot`: run the subcommand that the arguments name."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from domain.errors import Unusable
from entrypoints.cli.arguments import CHAT_KEY, parse
from entrypoints.cli.setting_options import settings_in
from entrypoints.exit_status import BROKEN_PIPE, UNUSABLE, USAGE
from entrypoints.settings import ENV_FILE, InvalidOption, Settings, environment, load_settings
from entrypoints.signals import signals_handled
from entrypoints.standard_streams import warn
from entrypoints.startup_warnings import startup_warnings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 on a usage error, 3 if the configuration cannot be used."""
    parsed = parse(
        {
            "serve": _serve,
            "chat": _chat,
            "migrate": _migrate,
            "backup": _backup,
            "copy": _copy,
            "keys": _keys,
            "check": _check,
        },
        sys.argv[1:] if arguments is None else arguments,
    )
    try:
        status = parsed.run(parsed)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
        sys.exit(BROKEN_PIPE)
    except Unusable as unusable:
        print(unusable, file=sys.stderr)
        sys.exit(USAGE if isinstance(unusable, InvalidOption) else UNUSABLE)


# Each command imports its module only when it runs, so that `chat` does not wait for the imports of `serve`.


def _serve(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.serve import serve

    if parsed.reload and parsed.workers > 1:
        parsed.parser.error("--reload and --workers exclude each other")
    settings = _settings(parsed)
    local = parsed.local == "always" or (parsed.local == "auto" and not settings.has_model)
    if not parsed.reload:
        return serve(settings, local=local, workers=parsed.workers)
    from entrypoints.cli.reload import SettingsToReload

    return serve(settings, local=local, reloading=SettingsToReload(settings_in(parsed), _env_file(parsed)))


def _chat(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.chat import TerminalChat
    from entrypoints.cli.terminal.client import ServiceClient

    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C stops a reply
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_orderly)
    credential = _credential(parsed.key_file)
    try:
        client = ServiceClient(parsed.url, credential)
    except ValueError as error:
        parsed.parser.error(f"--url {error}")
    try:
        return TerminalChat(client, parsed.user, parsed.conversation, credential).run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _exit_orderly(number: int, _: object) -> NoReturn:
    """Exit so that the terminal is as before."""
    sys.exit(128 + number)


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
        except OSError as error:
            raise Unusable(f"--key-file: {file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Unusable(f"--key-file: {file} is not text in UTF-8") from None
    if not re.fullmatch("[!-~]+", text):
        raise Unusable(f"{name}: must contain one API key or token, and nothing else")
    return text


def _migrate(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.migrate import migrate, needs_migration

    if parsed.check:
        needed, sentence = needs_migration(_settings(parsed))
        print(sentence)
        return int(needed)
    print(migrate(_settings(parsed)))
    return 0


def _backup(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.backup import backup

    os.nice(10)  # a service on the same machine comes first
    try:
        with signals_handled(signal.default_int_handler):
            print(backup(_settings(parsed), parsed.file))
    except KeyboardInterrupt:
        raise Unusable("The backup was interrupted; there is no new file.") from None
    return 0


def _copy(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.copy import InterruptibleCopy

    if parsed.source is None and parsed.target is None:
        parsed.parser.error("give at least one URL, as --from URL or --to URL")
    copy = InterruptibleCopy(_settings(parsed), parsed.source, parsed.target)
    with signals_handled(copy.interrupt):
        print(copy.run())
    return 0


def _keys(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.keys import Keys

    keys = Keys(_settings(parsed))
    if parsed.action == "create":
        keys.create(parsed.role, parsed.name, parsed.prefix, parsed.expires)
    elif parsed.action == "list":
        keys.list()
    else:
        keys.revoke(parsed.id)
    return 0


def _check(parsed: argparse.Namespace) -> int:
    from entrypoints.cli.check import summary

    settings = _settings(parsed)
    print(summary(settings), flush=True)
    settings.require_model()
    settings.require_authentication()
    if not parsed.live:
        return 0
    from entrypoints.cli.check_live import check_live

    return 0 if check_live(settings) else UNUSABLE


def _settings(parsed: argparse.Namespace) -> Settings:
    file = _env_file(parsed)
    settings = load_settings(settings_in(parsed), file)
    for sentence in startup_warnings(settings, file):
        warn(sentence)
    return settings


def _env_file(parsed: argparse.Namespace) -> Path:
    """Return the file of settings.

    Raises:
        InvalidOption: The one that was named does not exist.
    """
    file: Path | None = parsed.env_file
    if file is not None and not file.is_file():
        raise InvalidOption("--env-file: there is no such file")
    return file or ENV_FILE
