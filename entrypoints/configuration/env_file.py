"""The file `.env`: rejects lines that python-dotenv would skip or cut short, and names unknown keys."""

import difflib
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables

from domain.errors import Unusable

ALIASES: Final = {
    "MEM0_API_URL": "MEM0_HOST",
    "MEM0_BASE_URL": "MEM0_HOST",
    "MEM0_URL": "MEM0_HOST",
    "OPENAI_API_BASE": "OPENAI_BASE_URL",
    "OPENAI_API_BASE_URL": "OPENAI_BASE_URL",
    "OPENAI_API_ENDPOINT": "OPENAI_BASE_URL",
    "OPENAI_API_HOST": "OPENAI_BASE_URL",
    "OPENAI_ENDPOINT": "OPENAI_BASE_URL",
}
"""Names that other programs use for our settings."""

READ_BY_LIBRARIES: Final = frozenset(
    {"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)
"""Variables that libraries read from the environment, but not from `.env`."""

_UNQUOTED_HASH: Final = re.compile(r"""[^=]*=[^\S\r\n]*((?!['"\s])[^\r\n]*?\s|(?<!=))#""")
"""A line whose value is not in quotes and holds a # after white space, at which python-dotenv cuts it off."""

_EXPORT: Final = re.compile(r"\s*export[^\S\r\n]+\w+[^\S\r\n]*(#|$)", re.MULTILINE)
"""A line that marks a variable for export without setting it, as in files for a shell."""

_QUOTING: Final = "put a value with quotes, # or line breaks in single quotes"


def require_parsable(env_file: Path, known: Container[str], variables: Container[str]) -> None:
    """Check that each line of `env_file` is read as it was meant. A missing file is fine.

    Args:
        known: The names of settings. Only these are checked for unset variables.
        variables: The names in the environment, which a value can use as `${NAME}`, like other keys of the file.

    Raises:
        Unusable: It is not text, a line cannot be parsed or uses a variable that is not set, which python-dotenv would
            replace with nothing, a line would unset an earlier one, or a system prompt would end at a `#`.
    """
    if not env_file.is_file():
        return
    try:
        with env_file.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except UnicodeDecodeError:
        raise Unusable(f"{env_file}: must be a text file in UTF-8") from None
    except OSError as error:
        raise Unusable(f"{env_file}: cannot be read: {error.strerror}") from None
    keys = {binding.key for binding in bindings if binding.value is not None}
    given: set[str] = set()
    for binding in bindings:
        name = (binding.key or "").upper()
        if binding.error or (binding.value is None and binding.key is not None and not _EXPORT.match(_text(binding))):
            raise Unusable(f"{env_file}: line {_line(binding)} cannot be parsed; {_QUOTING}")
        if binding.value is None and name in given:  # python-dotenv would drop the value, unlike a shell
            raise Unusable(f"{env_file}: line {_line(binding)} would unset {name}; remove it")
        if binding.value is not None:
            given.add(name)
        if name == "SYSTEM_PROMPT" and _UNQUOTED_HASH.match(_text(binding)):
            raise Unusable(f"{env_file}: SYSTEM_PROMPT in line {_line(binding)} would end before its #; {_QUOTING}")
        if name in known and any(used not in keys and used not in variables for used in _variables(binding)):
            raise Unusable(f"{env_file}: {name} in line {_line(binding)} uses a ${{variable}} that is not set")


def values(env_file: Path) -> dict[str, str]:
    """Return the keys and values of `env_file`, or nothing if it does not exist."""
    parsed = dotenv_values(env_file) if env_file.is_file() else {}
    return {key: value for key, value in parsed.items() if value is not None}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the sentence that `key` is not a setting, with the closest match.

    >>> unknown_key("OPENAI_API_BASE", ["OPENAI_BASE_URL"])
    'OPENAI_API_BASE is not a setting; did you mean OPENAI_BASE_URL?'
    """
    if key.upper() in READ_BY_LIBRARIES:
        return f"{key} is not a setting; set it in the environment."
    near = [ALIASES[key.upper()]] if key.upper() in ALIASES else difflib.get_close_matches(key.upper(), known, n=1)
    return f"{key} is not a setting" + (f"; did you mean {near[0]}?" if near else ".")


def _variables(binding: Binding) -> Iterator[str]:
    """Yield the names of the variables without a default in a value."""
    for atom in parse_variables(binding.value or ""):
        if isinstance(atom, Variable) and atom.default is None:
            yield atom.name


def _text(binding: Binding) -> str:
    return binding.original.string


def _line(binding: Binding) -> int:
    """Return the number of a binding's first line. The parser counts the blank lines before as part of it."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))
