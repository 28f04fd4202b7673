"""Types of settings that are URLs, or parts of one."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from entrypoints.configuration.types import expanded, is_loopback, trimmed

_PLACEHOLDER: Final = re.compile(r"[<>{}…]|\.\.\.")
"""What documentation has in place of a name, e.g. `https://<resource>.openai.azure.com`."""

_ENDPOINT: Final = re.compile(r"/+(chat/)?completions/*$")
_POSTGRES_SCHEMES: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = "must be origins such as https://example.com"


def is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message would quote the URL, which may contain a password
        return False
    return valid and not re.search(r"\s", url)


def host_of(url: str) -> str:
    """Return host and port of a URL, without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2]


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
    if url.startswith("postgresql://") and _has_bare_at_sign(url):
        raise ValueError("must have %40 in the place of an @ in the password")
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
        valid = bool(parts.path.strip("/")) and not parts.fragment and parts.port != 0
        valid = valid and not re.search(r"\s", url) and not _has_bare_at_sign(url)
    except ValueError:  # its message would quote the URL
        valid = False
    if not valid:
        raise ValueError(
            "must be postgresql://user:password@host/database, with special characters percent-encoded, e.g. %23 for #"
        )
    return value


def _has_bare_at_sign(url: str) -> bool:
    """Whether a password may contain an @, whose rest PostgreSQL's drivers would take, and report, as the host."""
    return url.partition("?")[0].count("@") > 1


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


def _jwks_url(url: str) -> str:
    parts = urlsplit(_web_url(url))
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("must be an https URL, because whoever can change the response can sign tokens")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must be a URL without user, password and fragment")
    return url


def _with_expanded_path(value: object) -> object:
    return with_expanded_path(value) if isinstance(value, str) else value


WebURL = Annotated[str, AfterValidator(_web_url)]
ModelURL = Annotated[WebURL, AfterValidator(without_endpoint)]
DatabaseURL = Annotated[SecretStr, BeforeValidator(_with_expanded_path), AfterValidator(_database)]
VectorStoreURL = Annotated[SecretStr, AfterValidator(_vector_store)]
Origin = Annotated[str, AfterValidator(_origin)]
JWKSURL = Annotated[str, AfterValidator(_jwks_url)]
