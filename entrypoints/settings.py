"""Settings: the only reader of the environment."""

import difflib
import ipaddress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SAMPLE_KEYS: Final = frozenset({"your_openai_api_key_here", "your_mem0_api_key"})
"""What the documented sample file holds in place of keys; counts as no key."""

DEFAULT_PROMPT: Final = (
    "You are a helpful assistant. Answer clearly and concisely, in the language you are asked in, "
    "and say so when you do not know."
)

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class SettingsError(Exception):
    """The configuration can not be used; the message is one sentence and holds no secret."""


class Settings(BaseSettings):
    """What an operator can choose. Each field is the environment variable of its name, in capitals."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    openai_api_key: SecretStr | None = Field(
        None, description="Key of the OpenAI API. Needed for OpenAI itself; not with `OPENAI_BASE_URL` or `--local`."
    )
    openai_base_url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server, with its `/v1`. Empty means OpenAI."
    )
    openai_model: str = Field("gpt-3.5-turbo", min_length=1, description="Model to ask.")
    openai_temperature: float = Field(
        0.7, ge=0, le=2, allow_inf_nan=False, description="How varied replies are, 0 to 2."
    )
    openai_max_tokens: int = Field(1000, ge=1, le=1_000_000, description="Longest reply, in tokens.")
    app_name: str = Field("Smart Chatbot", min_length=1, max_length=100, description="Name shown by health and docs.")
    debug: bool = Field(False, description="Log more. Never logs what people say.")
    system_prompt: str = Field(
        DEFAULT_PROMPT, min_length=1, description="Instructions that every conversation starts with."
    )
    memory_backend: Literal["sql", "mem0", "mem0_platform", "in_memory", "none"] = Field(
        "sql",
        description="Who keeps facts about users: `sql` (the database), `mem0` (the library, in this process), "
        "`mem0_platform` (Mem0's service), `in_memory` (until the process ends) or `none`.",
    )
    memory_recall_timeout: Seconds = Field(1, description="Seconds that a reply waits for long-term memory.")
    mem0_api_key: SecretStr | None = Field(None, description="Key of the Mem0 platform, for `mem0_platform`.")
    mem0_host: str | None = Field(None, description="Base URL of the Mem0 platform. Empty means Mem0's own.")
    mem0_infer: bool = Field(
        True, description="Have a model extract facts; otherwise the user's words are kept, questions aside."
    )
    mem0_embedder: Literal["openai", "local"] = Field(
        "openai", description="Who embeds for `mem0`: the model's service, or a small model in this process (`local`)."
    )
    mem0_embedding_model: str = Field(
        "text-embedding-3-small", min_length=1, description="Model to ask for embeddings, for `mem0`."
    )
    mem0_vector_store: SecretStr | None = Field(
        None,
        description="Where `mem0` keeps vectors: URL of PostgreSQL with pgvector, or of a Qdrant server. Empty means "
        "embedded in `DATA_DIR`, for one process.",
    )
    mem0_config_file: Path | None = Field(
        None, description="JSON file with further configuration of the Mem0 library, which goes before ours."
    )
    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on. Beyond the loopback anyone can read everything."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    history_backend: Literal["sql", "in_memory"] = Field(
        "sql", description="Where turns are kept: `sql`, or `in_memory` until the process ends."
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the database. Empty means `sqlite:///{DATA_DIR}/chat.db`."
    )
    data_dir: Path = Field(Path("data"), description="Directory for everything the service keeps.")
    context_tokens: int = Field(
        14_000, ge=100, le=10_000_000, description="Budget for instructions, recent turns and message, in tokens."
    )
    on_disconnect: Literal["cancel", "continue"] = Field(
        "cancel", description="When the last reader leaves: `cancel` the reply, or `continue` it."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of web pages that may call, separated by commas."
    )
    max_message_chars: int = Field(32_000, ge=1, le=1_000_000, description="Longest message, in characters.")
    max_body_bytes: int = Field(256_000, ge=1_000, le=16_000_000, description="Largest request body, in bytes.")
    upstream_connect_timeout: Seconds = Field(5, description="Seconds to connect to the model's service.")
    upstream_first_byte_timeout: Seconds = Field(30, description="Seconds until the model's service answers.")
    upstream_idle_timeout: Seconds = Field(60, description="Seconds the model may be silent within a reply.")
    upstream_max_connections: int = Field(
        1200, ge=1, le=100_000, description="Calls of the model's service at once; more wait for two seconds."
    )
    turn_timeout: Seconds = Field(300, description="Seconds a turn may take in all.")
    header_hold: Seconds = Field(10, description="Seconds a stream's headers wait for the model to answer.")
    comment_interval: Seconds = Field(15, description="Seconds of silence after which a stream carries a comment.")
    shutdown_grace: float = Field(
        3,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="Seconds that running turns get when the service is told to stop.",
    )
    event_loop: Literal["auto", "uvloop", "asyncio"] = Field(
        "auto",
        description="Event loop of `serve`: `uvloop`, `asyncio`, or `auto` for the faster one installed.",
    )

    @field_validator(
        "openai_api_key",
        "mem0_api_key",
        "openai_base_url",
        "database_url",
        "mem0_host",
        "mem0_vector_store",
        "mem0_config_file",
        mode="before",
    )
    @classmethod
    def _empty_means_none(cls, value: Any) -> Any:
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        return None if isinstance(plain, str) and (not plain.strip() or plain.strip() in SAMPLE_KEYS) else value

    @field_validator("openai_api_key", "mem0_api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all("!" <= character <= "~" for character in value.get_secret_value()):
            raise ValueError("must be visible ASCII characters")
        return value

    @field_validator("openai_base_url", "mem0_host")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_web_url(value):
            raise ValueError("must be an http or https URL")
        return value

    @field_validator("mem0_vector_store")
    @classmethod
    def _is_vector_store(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url = value.get_secret_value()
            if not (url.startswith("postgresql://") or _is_web_url(url)):
                raise ValueError("must be a postgresql, http or https URL")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_supported(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("sqlite:///") or len(value) == len("sqlite:///")):
            raise ValueError("must be sqlite:/// and a file's path; other databases are not supported yet")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and (not _is_web_url(origin) or urlsplit(origin).path):
                raise ValueError("must be origins such as https://example.com, without a path")
        return value

    @field_validator("event_loop")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value == "uvloop" and find_spec("uvloop") is None:
            raise ValueError("must be auto or asyncio, since uvloop is not installed")
        return value

    @field_validator("data_dir", "database_url")
    @classmethod
    def _fits_a_url(cls, value: Path | str | None) -> Path | str | None:
        if value is not None and any(character in str(value) for character in "?#%"):
            raise ValueError("must not hold ?, # or %, which mean something else in a database's URL")
        return value

    @property
    def database(self) -> str:
        """The database's URL, the embedded default included."""
        return self.database_url or f"sqlite:///{self.data_dir / 'chat.db'}"

    @property
    def uses_database(self) -> bool:
        """Whether anything is kept in it."""
        return "sql" in (self.history_backend, self.memory_backend)

    @property
    def has_model(self) -> bool:
        """Whether it is said which model's service to call."""
        return self.openai_api_key is not None or self.openai_base_url is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message would repeat what may hold a password
        return False


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: a value can not be used.
    """
    try:
        return Settings()
    except UnicodeDecodeError:
        raise SettingsError(".env: must be a text file in UTF-8") from None
    except ValidationError as error:
        raise SettingsError("; ".join(map(_sentence, error.errors(include_input=False, include_url=False)))) from None


def require_model(settings: Settings) -> None:
    """Return if it is said which model's service to call.

    Raises:
        SettingsError: it is not.
    """
    if not settings.has_model:
        raise SettingsError(
            "No model to ask: set OPENAI_API_KEY (or OPENAI_BASE_URL for another server) in the environment or in "
            ".env, or try the embedded model with: smart-chatbot serve --local"
        )


def require_memory(settings: Settings) -> None:
    """Return if long-term memory has what it needs.

    Raises:
        SettingsError: it has not.
    """
    if settings.memory_backend == "mem0_platform" and settings.mem0_api_key is None:
        raise SettingsError("MEM0_API_KEY: is needed where MEMORY_BACKEND is mem0_platform")


def unknown_keys(env_file: Path = Path(".env")) -> list[str]:
    """A sentence for each key of the file that is no setting."""
    if not env_file.is_file():
        return []
    known = [name.upper() for name in Settings.model_fields]
    sentences = []
    for key in dotenv_values(env_file):
        if key.upper() not in known:
            near = difflib.get_close_matches(key.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            sentences.append(f"{env_file}: {key} is not a setting{hint}")
    return sentences


def _sentence(error: Any) -> str:
    name = str(error["loc"][0])
    message = error["msg"].removeprefix("Value error, ")
    choices = get_args(Settings.model_fields[name].annotation) if error["type"] == "literal_error" else ()
    if choices:
        message = "must be one of " + ", ".join(choices)
    return f"{name.upper()}: {message[0].lower()}{message[1:]}"
