"""Types of settings: each normalizes its value, or rejects it with a message that does not quote it."""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

QUOTES: Final = "\"'`“”„‟‘’‚‛«»‹›＂＇"
"""Quotation marks that values are pasted in. A `.env` file may use the first two; they are then not part of a value."""

_INVISIBLE: Final = "\u200b\u2060\ufeff"
"""Characters without width, which web pages and chat programs leave around copied text."""

MIN_PSEUDONYM_KEY_CHARS: Final = 32
MIN_JWT_SECRET_CHARS: Final = 32
"""As many bytes as a digest of HS256. The other algorithms require more, see `adapters/tokens_jwt.py`."""

SAMPLE_SECRETS: Final = frozenset(
    {
        "a-string-secret-at-least-256-bits-long",
        "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
        "aym1sysppbydfgzld3umj1qzkobwvmkoqq-estjqlr_t-1qs0gzh75aktmn3yj0ips4hcguutwjazzr1z9caow",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        "super-secret-jwt-token-with-at-least-32-characters-long",
        "your-super-secret-jwt-token-with-at-least-32-characters-long",
        "this-is-a-very-long-secret-key-for-jwt-signing",
        "your-secret-key-must-be-at-least-32-characters-long",
        "your_super_secret_key_at_least_32_characters",
        "change-this-secret-in-production-32-characters",
        "my-super-secret-key-that-is-at-least-32-characters",
    }
)
"""Secrets of at least 32 characters in documentation that is copied from, in lower case."""

_MIN_DISTINCT_CHARS: Final = 8
"""In a secret. One of 32 random hexadecimal digits has fewer once in a million times."""

_ADVICE: Final = "make one with: openssl rand -hex 32"

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_STOP_SEQUENCES: Final = 16
"""More than any service accepts; OpenAI accepts four."""
MAX_STOP_CHARS: Final = 256

_PLACEHOLDER: Final = re.compile(r"[<>{}…]|\.\.\.")
"""What documentation has in place of a name, e.g. `https://<resource>.openai.azure.com`."""

_ROOT_PATH: Final = re.compile(r"(/[\w.~-]+)+", re.ASCII)

_ENDPOINT: Final = re.compile(r"/+(chat/)?completions/*$")
_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\})", re.ASCII)
"""A variable in a path. Any other $ is literal."""

KEY: Final = re.compile(
    r"(?<![\w-])(?:(?:sk|pk|rk|gsk|csk|m0|ck)[-_][\w-]{20,}|(?:xai|hf|nvapi|pplx|r8|fw|tgp|gh[pousr])[-_]\w{20,}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{10,}\.eyJ[\w-]+)"
)
"""What looks like a key or token of a well-known service, or like one of ours."""

_HOST_NAME: Final = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_POSTGRES_SCHEMES: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = "must be origins such as https://example.com"


def trimmed(text: str) -> str:
    """Return `text` without surrounding white space and characters without width.

    >>> trimmed(" sk-123\\u200b ")
    'sk-123'
    """
    before = None
    while before != text:
        before, text = text, text.strip().strip(_INVISIBLE)
    return text


def is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message would quote the URL, which may contain a password
        return False
    return valid and not re.search(r"\s", url)


def without_endpoint(url: str) -> str:
    """Return the base URL of a model's service. A query stays, e.g. Azure's `api-version`.

    >>> without_endpoint("https://host/v1/chat/completions")
    'https://host/v1'
    """
    parts = urlsplit(url)
    path = _ENDPOINT.sub("", parts.path)
    return url if path == parts.path else urlunsplit(parts._replace(path=path))


def _web_url(url: str) -> str:
    _require_no_placeholder(url)
    if not is_web_url(url):
        raise ValueError("must be an http or https URL")
    return url


def _require_no_placeholder(url: str) -> None:
    if _PLACEHOLDER.search(url):
        raise ValueError("must not contain a placeholder of the documentation, e.g. <name>; put in your own value")


def _vector_store(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    _require_no_placeholder(url)
    if not (url.startswith("postgresql://") or is_web_url(url)):
        raise ValueError("must be a postgresql, http or https URL")
    return value


def _database(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest not in ("/", "/:memory:"):
        require_no_url_syntax(url)
        return value
    if scheme not in _POSTGRES_SCHEMES:
        raise ValueError("must be sqlite:/// followed by a file path, or postgresql://user:password@host/database")
    _require_no_placeholder(url)
    try:
        parts = urlsplit(url)
        valid = bool(parts.path.strip("/")) and not parts.fragment and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:  # its message would quote the URL
        valid = False
    if not valid:
        raise ValueError(
            "must be postgresql://user:password@host/database, with special characters percent-encoded, e.g. %23 for #"
        )
    return value


def with_expanded_path(url: str) -> str:
    """Return a database URL with `~` and environment variables in the path of an SQLite file replaced.

    Raises:
        ValueError: One of them is not known.
    """
    scheme, separator, path = url.partition("sqlite:///")
    return separator + expanded(path) if separator and not scheme else url


def valid_database_url(text: str) -> str:
    """Return a database URL that was given as text, normalized like the setting.

    Raises:
        ValueError: It is invalid; the message does not quote it.
    """
    return _database(SecretStr(with_expanded_path(trimmed(text)))).get_secret_value()


def require_no_url_syntax(path: str) -> None:
    """Raise ValueError if a path would mean something else in a database URL."""
    if any(character in path for character in "?#%"):
        raise ValueError("must not contain ?, # or %: they have a special meaning in a database URL")


def _key(value: SecretStr) -> SecretStr:
    """Return a key that fits into a header."""
    if not all("!" <= character <= "~" and character not in QUOTES for character in value.get_secret_value()):
        raise ValueError("must consist of visible ASCII characters, without spaces and quotation marks")
    return value


def _no_key(value: str) -> str:
    if KEY.search(value):
        raise ValueError("must not be a key: it is a name, which is logged and shown")
    return value


def _pseudonym_key(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < MIN_PSEUDONYM_KEY_CHARS:
        raise ValueError(f"must have at least {MIN_PSEUDONYM_KEY_CHARS} characters, e.g. from: openssl rand -hex 32")
    return value


def _host(host: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError("must be an IP address or a host name, without scheme and port") from None
    return bare


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


def _origin(origin: str) -> str:
    """Return an origin as browsers send it, in lower case."""
    if origin in ("*", "null"):
        return origin
    if "*" in origin:
        raise ValueError(f"{_ORIGIN}, without wildcards; only * by itself is one, and stands for every origin")
    try:
        parts = urlsplit(origin.lower())
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:  # its message would quote the origin
        raise ValueError(_ORIGIN) from None
    if not host or scheme in ("ftp", "file") or not origin.isascii():
        raise ValueError(_ORIGIN)
    if parts.username is not None:
        raise ValueError(f"{_ORIGIN}, without a user")
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{_ORIGIN}, without a path")
    if port is not None and port == _DEFAULT_PORTS.get(scheme):
        raise ValueError(f"{_ORIGIN}, without the scheme's default port, which browsers leave out")
    canonical = f"{scheme}://" + (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    if canonical != origin.lower():
        raise ValueError(_ORIGIN)
    return canonical


def _path(path: Path) -> Path:
    return Path(expanded(str(path)))


def _jwt_secret(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if len(secret) < MIN_JWT_SECRET_CHARS:
        raise ValueError(f"must have at least {MIN_JWT_SECRET_CHARS} characters; {_ADVICE}")
    if secret.lower() in SAMPLE_SECRETS or len(set(secret)) < _MIN_DISTINCT_CHARS:
        raise ValueError(f"must not be a sample that everybody knows, or a repeated word; {_ADVICE}")
    return value


def _jwks_url(url: str) -> str:
    parts = urlsplit(_web_url(url))
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("must be an https URL, because whoever can change the response can sign tokens")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must be a URL without user, password and fragment")
    return url


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


_STOP_FORM: Final = (
    f'must be a JSON list of 1 to {MAX_STOP_SEQUENCES} texts of at most {MAX_STOP_CHARS} characters, e.g. ["END"]'
)

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
RootPath = Annotated[str, AfterValidator(_root_path)]
StopSequences = Annotated[tuple[str, ...], BeforeValidator(_stop_sequences), BeforeValidator(_json_list)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
WebURL = Annotated[str, AfterValidator(_web_url)]
ModelURL = Annotated[WebURL, AfterValidator(without_endpoint)]
DatabaseURL = Annotated[SecretStr, AfterValidator(_database)]
VectorStoreURL = Annotated[SecretStr, AfterValidator(_vector_store)]
Key = Annotated[SecretStr, AfterValidator(_key)]
PseudonymKey = Annotated[Key, AfterValidator(_pseudonym_key)]
NoKey = Annotated[str, AfterValidator(_no_key)]
"""A name that is shown. Keys that are pasted into the wrong line of a file must not be."""
Host = Annotated[str, AfterValidator(_host)]
ExpandedPath = Annotated[Path, AfterValidator(_path)]
Origin = Annotated[str, AfterValidator(_origin)]
JWTSecret = Annotated[Key, AfterValidator(_jwt_secret)]
JWKSURL = Annotated[str, AfterValidator(_jwks_url)]
Network = Annotated[IPNetwork, BeforeValidator(_network)]
TrueOrFalse = Annotated[bool, BeforeValidator(_true_or_false)]
"""Without the other words that pydantic takes for true."""
