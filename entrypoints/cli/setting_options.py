"""Options for settings, made from the fields of `Settings`. Secrets are refused, see docs/adr/0038."""

import argparse
import re
from typing import Any, Final

from entrypoints.settings import Settings, is_secret, option_of

_COMMON: Final = ("host", "port", "root_path")
"""Settings whose options come first in the help."""

_CREDENTIALS_IN_URL: Final = re.compile(r"://[^/?#\s]*@")

_SEEN_BY_OTHERS: Final = (
    "is refused, because other users of this machine can see the options of a command: set {name} in the environment, "
    "in .env, or as a file in SECRETS_DIR"
)


def add_common_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that come first in the help."""
    for name in _COMMON:
        _add_setting(parser, name)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options for all other settings."""
    settings = parser.add_argument_group(
        "settings",
        "Each is also an environment variable, e.g. APP_NAME for --app-name; the option comes first. Secrets are not "
        "options:\nset them in the environment, in .env, or as files in SECRETS_DIR.",
    )
    for name in Settings.model_fields:
        if is_secret(name):
            parser.add_argument(option_of(name), action=_Refused, nargs="?", help=argparse.SUPPRESS)
        elif name not in _COMMON:
            _add_setting(settings, name)


def settings_in(parsed: argparse.Namespace) -> dict[str, str]:
    """Return the settings that were given as options, by the names of fields."""
    prefix = "setting:"
    return {name.removeprefix(prefix): value for name, value in vars(parsed).items() if name.startswith(prefix)}


def _add_setting(parser: argparse._ActionsContainer, name: str) -> None:
    field = Settings.model_fields[name]
    description = (field.description or "").replace("`", "").replace("%", "%%")
    if field.default not in (None, (), "") and name != "system_prompt":
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        description += f" (default: {default})"
    flag: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
    parser.add_argument(
        option_of(name),
        dest=f"setting:{name}",
        action=_Setting,
        metavar="true|false" if flag else name.rpartition("_")[2].upper(),
        default=argparse.SUPPRESS,
        help=description,
        **flag,
    )


class _Setting(argparse.Action):
    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        if _CREDENTIALS_IN_URL.search(values):
            name = self.dest.removeprefix("setting:").upper()
            parser.error(f"{option_string} with a user in its URL " + _SEEN_BY_OTHERS.format(name=name))
        setattr(namespace, self.dest, values)


class _Refused(argparse.Action):
    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        parser.error(f"{option_string} " + _SEEN_BY_OTHERS.format(name=self.dest.upper()))
