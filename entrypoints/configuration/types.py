"""Types of settings: each normalizes its value, or rejects it with a message that does not quote it."""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

QUOTES: Final = "\"'`“”„‟‘’‚‛«»‹›＂＇"
"""Quotation marks that values are pasted in. A `.env` file may use the first two; they are then not part of a value."""

_INVISIBLE: Final = "\u200b\u2060\ufeff"
"""Characters without width, which web pages and chat programs leave around copied text."""

MAX_STOP_SEQUENCES: Final = 16
"""More than any service accepts; OpenAI accepts four."""
MAX_STOP_CHARS: Final = 256

_ROOT_PATH: Final = re.compile(r"(/[\w.~-]+)+", re.ASCII)

_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\})", re.ASCII)
"""A variable in a path. Any other $ is literal."""

_HOST_NAME: Final = re.compile(r"[\w-]+(\.[\w-]+)*\.?")

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def trimmed(text: str) -> str:
    """Return `text` without surrounding white space and characters without width.

    >>> trimmed(" sk-123\\u200b ")
    'sk-123'
    """
    before = None
    while before != text:
        before, text = text, text.strip().strip(_INVISIBLE)
    return text


def expanded(path: str) -> str:
    """Return `path` with `~` and environment variables replaced.

    Raises:
        ValueError: One of them is not known.
    """
    unset = any(os.path.expandvars(variable) == variable for variable in _VARIABLE.findall(path))
    path = os.path.expandvars(os.path.expanduser(path))
    if path.startswith("~") or unset:
        raise ValueError("must not contain a variable that is not set, or the home directory of an unknown user")
    return path


def _path(path: Path) -> Path:
    return Path(expanded(str(path)))


def _host(host: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError("must be an IP address or a host name, without scheme and port") from None
    return bare


def is_loopback(host: str) -> bool:
    """Return whether only processes on this machine can connect to a host. Its name is not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _network(network: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(network)
    except ValueError:
        raise ValueError("must be IP addresses or networks, e.g. 10.0.0.7, 10.0.0.0/24") from None


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _root_path(path: str) -> str:
    path = path.rstrip("/")
    if path and not _ROOT_PATH.fullmatch(path):
        raise ValueError("must be a path such as /bot, of letters, digits and . _ ~ -")
    return path


def _json_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(_STOP_FORM) from None


def _stop_sequences(sequences: Any) -> Any:
    valid = isinstance(sequences, list | tuple) and 1 <= len(sequences) <= MAX_STOP_SEQUENCES
    if not valid or not all(isinstance(text, str) and 1 <= len(text) <= MAX_STOP_CHARS for text in sequences):
        raise ValueError(_STOP_FORM)
    return tuple(sequences)


def _true_or_false(value: Any) -> Any:
    if isinstance(value, str) and value.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_STOP_FORM: Final = (
    f'must be a JSON list of 1 to {MAX_STOP_SEQUENCES} texts of at most {MAX_STOP_CHARS} characters, e.g. ["END"]'
)

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
RootPath = Annotated[str, AfterValidator(_root_path)]
StopSequences = Annotated[tuple[str, ...], BeforeValidator(_stop_sequences), BeforeValidator(_json_list)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Host = Annotated[str, AfterValidator(_host)]
ExpandedPath = Annotated[Path, AfterValidator(_path)]
Network = Annotated[IPNetwork, BeforeValidator(_network)]
TrueOrFalse = Annotated[bool, BeforeValidator(_true_or_false)]
"""Without the other words that pydantic takes for true."""

T = TypeVar("T")
CommaSeparated = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
