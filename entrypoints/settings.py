"""Settings: the only reader of the environment."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from domain.context import required_tokens
from domain.errors import Unusable
from domain.memory import MAX_FACT_CHARS
from entrypoints.certificates import require_certificates
from entrypoints.env_file import require_parsable, values
from entrypoints.program import program
from entrypoints.setting_types import (
    JWKSURL,
    QUOTES,
    DatabaseURL,
    ExpandedPath,
    Host,
    JWTSecret,
    Key,
    LogLevel,
    ModelURL,
    Network,
    NoKey,
    Origin,
    PseudonymKey,
    RootPath,
    Seconds,
    StopSequences,
    TrueOrFalse,
    VectorStoreURL,
    WebURL,
    is_loopback,
    require_no_url_syntax,
    trimmed,
    with_expanded_path,
)

AuthMode = Literal["none", "api_key", "jwt", "api_key+jwt"]

SAMPLE_KEYS: Final = frozenset({"your_openai_api_key_here", "your_mem0_api_key"})
"""Placeholders of `.env.example`; each counts as no key."""

DEFAULT_PROMPT: Final = (
    "You are a helpful assistant. Answer clearly and concisely, in the language you are asked in, "
    "and say so when you do not know."
)

ESCAPED_CHAR_BYTES: Final = 12
"""Most bytes of a character in JSON: an escaped surrogate pair, e.g. `\\ud83d\\ude00`."""

BODY_OVERHEAD: Final = 16_000
"""Bytes of a request body for everything but its text, e.g. the ids."""

MIN_MESSAGE_TOKENS: Final = 30
"""Tokens of the context budget that the system prompt has to leave for a message."""

PROMPT_TOO_LONG: Final = (
    "SYSTEM_PROMPT: leaves no room for messages within CONTEXT_TOKENS; shorten the one or raise the other"
)


class Settings(BaseSettings):
    """The service's configuration. Each field is read from the environment variable of its name in upper case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    openai_api_key: Key | None = Field(
        None, description="OpenAI API key. Not needed with `OPENAI_BASE_URL` or `--local`."
    )
    openai_base_url: ModelURL | None = Field(
        None,
        repr=False,
        exclude=True,
        description="Base URL of an OpenAI-compatible server, including `/v1`. Empty: OpenAI.",
    )
    openai_model: NoKey = Field("gpt-3.5-turbo", min_length=1, description="Model that generates the replies.")
    openai_temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="Sampling temperature, 0 to 2.")
    openai_max_tokens: int = Field(1000, ge=1, le=1_000_000, description="Maximum length of a reply, in tokens.")
    openai_top_p: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Nucleus sampling, 0 to 1. Empty: not sent."
    )
    openai_stop: Annotated[StopSequences | None, NoDecode] = Field(
        None,
        description='Texts before which a reply ends, as a JSON list, e.g. `["END", "User:"]`. Empty: not sent.',
    )
    openai_seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="Seed, for replies that are largely reproducible. Empty: not sent."
    )
    openai_reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None,
        description="How much a reasoning model thinks: `none`, `minimal`, `low`, `medium`, `high` or `xhigh`. Empty: "
        "not sent.",
    )
    reasoning: Literal["drop", "keep"] = Field(
        "drop", description="A model's reasoning, in its own field or a leading `<think>` block: `drop` or `keep` it."
    )
    app_name: NoKey = Field(
        "Smart Chatbot",
        min_length=1,
        max_length=100,
        description="Name shown on the chat page, in API documentation and health checks.",
    )
    debug: bool = Field(
        False,
        description="Log at debug level, with parameters and sizes of failed requests. Messages and replies are never "
        "logged.",
    )
    log_level: LogLevel = Field(
        "info", description="Lowest level that is logged: `debug`, `info`, `warning` or `error`. `DEBUG=true`: `debug`."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Format of the log: `json`, `console`, or `auto` (`console` on a terminal, else `json`)."
    )
    system_prompt: str = Field(
        DEFAULT_PROMPT, description="System prompt, sent with every request to the model. Empty: none is sent."
    )
    memory_backend: Literal["sql", "mem0", "mem0_platform", "in_memory", "none"] = Field(
        "sql",
        description="Where long-term memory is stored: `sql` (the database), `mem0` (Mem0's library, in this process), "
        "`mem0_platform` (Mem0's hosted service), `in_memory` (lost on restart) or `none`.",
    )
    memory_recall_timeout: Seconds = Field(
        1, description="Timeout for recalling memories, in seconds; the reply continues without them."
    )
    mem0_api_key: Key | None = Field(None, description="API key of the Mem0 platform. Required for `mem0_platform`.")
    mem0_host: WebURL | None = Field(
        None, repr=False, exclude=True, description="Base URL of the Mem0 platform. Empty: Mem0's own."
    )
    mem0_infer: bool = Field(
        True,
        description="Extract facts with a model. If false, Mem0 stores the user's messages verbatim, except questions.",
    )
    mem0_embedder: Literal["openai", "local"] = Field(
        "openai",
        description="Embeddings for `mem0`: `openai` (the model's API) or `local` (a small model in this process).",
    )
    mem0_embedding_model: NoKey = Field(
        "text-embedding-3-small", min_length=1, description="Embedding model for `mem0` with the `openai` embedder."
    )
    mem0_vector_store: VectorStoreURL | None = Field(
        None,
        description="Vector store for `mem0`: URL of a PostgreSQL database with pgvector, or of a Qdrant server. "
        "Empty: embedded Qdrant in `DATA_DIR`, for a single process.",
    )
    mem0_config_file: ExpandedPath | None = Field(
        None, description="JSON file with further Mem0 configuration; takes precedence over the settings above."
    )
    host: Host = Field(
        "127.0.0.1", description="Address to listen on. Any address but loopback requires authentication."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free port.")
    root_path: RootPath = Field(
        "", description="Path under which a proxy serves the API, e.g. `/bot`; the proxy may remove it or pass it on."
    )
    docs: bool = Field(True, description="Serve the API documentation, at `/docs` and `/openapi.json`.")
    chat_page: bool = Field(True, description="Serve the chat page, at `/`.")
    auth_mode: Literal["auto", "none", "api_key", "jwt", "api_key+jwt"] = Field(
        "auto",
        description="Credentials that requests need: `none`, `api_key` (see `smart-chatbot keys`), `jwt`, "
        "`api_key+jwt`, or `auto`: `jwt` if it is configured, else `none`, on loopback only.",
    )
    auth_jwt_secret: JWTSecret | None = Field(
        None, description="Secret of tokens that are signed with HS256, HS384 or HS512; at least 32 characters."
    )
    auth_jwks_url: JWKSURL | None = Field(
        None,
        repr=False,
        exclude=True,
        description="URL of the JSON Web Key Set of the identity provider that signs tokens; https.",
    )
    auth_issuer: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Required issuer (`iss`) of tokens. With both a secret and a key set: two, separated by a comma, "
        "in that order.",
    )
    auth_audience: str | None = Field(None, description="Required audience (`aud`) of tokens.")
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Comma-separated addresses or networks of proxies whose `X-Forwarded-For` names the client, for "
        "limits on failed attempts.",
    )
    chat_dangerously_allow_unauthenticated: TrueOrFalse = Field(
        False, description="`true`: serve without authentication on any address. Every client can read everything."
    )
    history_backend: Literal["sql", "in_memory"] = Field(
        "sql", description="Where turns are stored: `sql` (the database) or `in_memory` (lost on restart)."
    )
    database_url: DatabaseURL | None = Field(
        None,
        description="URL of the database: `sqlite:///path` or `postgresql://user:password@host/database`. "
        "Empty: `sqlite:///{DATA_DIR}/chat.db`.",
    )
    data_dir: ExpandedPath = Field(Path("data"), description="Directory for all files the service writes.")
    secrets_dir: ExpandedPath | None = Field(
        None,
        description="Directory with a file for each secret, named like the setting in lower case. Empty: systemd's "
        "`CREDENTIALS_DIRECTORY`, or `/run/secrets`.",
    )
    log_pseudonym_key: PseudonymKey | None = Field(
        None,
        description="Key of the pseudonyms of users in the log, for several hosts to use the same. Empty: one is "
        "created in `DATA_DIR`.",
    )
    context_tokens: int = Field(
        14_000,
        ge=100,
        le=10_000_000,
        description="Token budget for system prompt, recent turns and message together.",
    )
    on_disconnect: Literal["cancel", "continue"] = Field(
        "cancel", description="When the last reader of a stream disconnects: `cancel` the reply or `continue` it."
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        (), description="Comma-separated origins allowed to call the API from a browser."
    )
    max_message_chars: int = Field(
        32_000, ge=1, le=1_000_000, description="Maximum length of a message, in characters."
    )
    max_body_bytes: int | None = Field(
        None,
        ge=1_000,
        le=16_000_000,
        description="Maximum size of a request body, in bytes. Empty: large enough for `MAX_MESSAGE_CHARS`.",
    )
    strict_fields: bool = Field(
        False, description="Reject requests with unknown fields in the body. If false, `X-Ignored-Fields` names these."
    )
    v1_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated models that clients of `/v1` may choose besides `OPENAI_MODEL`.",
    )
    v1_task_model: str | None = Field(
        None,
        description="Name of a model of `/v1` for requests outside of any conversation, e.g. for titles. Unless it is "
        "one of `V1_MODELS`, `OPENAI_MODEL` answers them.",
    )
    v1_open_webui: bool = Field(
        False,
        description="At `/v1`, take the conversation and the user from the headers of Open WebUI: "
        "`X-OpenWebUI-Chat-Id` and `X-OpenWebUI-User-Id`.",
    )
    v1_store_all: bool = Field(
        False,
        description="Store requests to `/v1` without a conversation, each in a new conversation. Not those of "
        "temporary chats.",
    )
    v1_system_messages: Literal["keep", "drop"] = Field(
        "keep",
        description="System messages of clients of `/v1`: `keep` them, after `SYSTEM_PROMPT`, or `drop` them. Side "
        "calls are answered without `SYSTEM_PROMPT` in any case.",
    )
    v1_max_body_bytes: int = Field(
        4_000_000,
        ge=1_000,
        le=64_000_000,
        description="Maximum size of a request body at `/v1`, in bytes. Clients send the whole conversation each time.",
    )
    upstream_connect_timeout: Seconds = Field(5, description="Timeout for connecting to the model's API, in seconds.")
    upstream_first_byte_timeout: Seconds = Field(
        30, description="Timeout for the model's first response byte, in seconds."
    )
    upstream_idle_timeout: Seconds = Field(
        60, description="Timeout between two chunks of a model's response, in seconds."
    )
    upstream_max_connections: int = Field(
        1200,
        ge=1,
        le=100_000,
        description="Maximum number of concurrent requests to the model; further ones wait up to 2 seconds.",
    )
    turn_timeout: Seconds = Field(300, description="Time limit of a turn, in seconds.")
    header_hold: Seconds = Field(
        10, description="Seconds to hold back a stream's response headers until the model accepts the request."
    )
    comment_interval: Seconds = Field(15, description="Seconds between keep-alive comments on an idle stream.")
    head_timeout: Seconds = Field(
        10, description="Seconds that a client has to send the request line and the headers of a request."
    )
    body_timeout: Seconds = Field(30, description="Seconds that a client has to send the body of a request.")
    send_timeout: Seconds = Field(
        15,
        description="Seconds without progress after which a client that does not read, or has vanished, counts as "
        "disconnected. On Linux only.",
    )
    shutdown_grace: float = Field(
        3,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="Seconds that running turns get to finish on shutdown.",
    )
    event_loop: Literal["auto", "uvloop", "asyncio"] = Field(
        "auto", description="Event loop for `serve`: `uvloop`, `asyncio`, or `auto` (uvloop if installed)."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let an empty or sample key count as not given, so that the next source counts."""
        sources = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        return tuple(map(_WithoutEmptyKeys, sources))

    @field_validator("database_url", mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return with_expanded_path(value) if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _tidy(cls, value: Any, info: ValidationInfo) -> Any:
        """Trim the text of a value. If nothing is left of it, return the default."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str):
            return value
        trimmed_text = trimmed(text)
        if info.field_name == "system_prompt":
            return text if trimmed_text else ""
        if not trimmed_text or trimmed_text in SAMPLE_KEYS:
            return cls.model_fields[str(info.field_name)].default
        if info.field_name != "app_name" and trimmed_text[0] in QUOTES and trimmed_text[-1] in QUOTES:
            raise ValueError("must not be in quotation marks")
        return trimmed_text

    @field_validator("cors_origins", "auth_issuer", "trusted_proxies", "v1_models", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("event_loop")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value == "uvloop" and find_spec("uvloop") is None:
            raise ValueError("must be auto or asyncio, since uvloop is not installed")
        return value

    @field_validator("data_dir")
    @classmethod
    def _fits_a_url(cls, value: Path) -> Path:
        require_no_url_syntax(str(value))
        return value

    @model_validator(mode="after")
    def _has_memory_key(self) -> Self:
        if self.memory_backend == "mem0_platform" and self.mem0_api_key is None:
            raise ValueError("MEM0_API_KEY: is required when MEMORY_BACKEND is mem0_platform")
        return self

    @model_validator(mode="after")
    def _has_room_for_messages(self) -> Self:
        if not self.leaves_room_for_messages:
            raise ValueError(PROMPT_TOO_LONG)
        return self

    @model_validator(mode="after")
    def _has_complete_authentication(self) -> Self:
        if self.auth != "none" and "*" in self.cors_origins:
            raise ValueError("CORS_ORIGINS: must not be * with authentication, so that no site can use a credential")
        if "jwt" not in self.auth:
            return self
        sources = [source for source in (self.auth_jwt_secret, self.auth_jwks_url) if source is not None]
        if not sources:
            raise ValueError("AUTH_JWT_SECRET: it or AUTH_JWKS_URL is required for AUTH_MODE " + self.auth)
        if not self.auth_issuer or not self.auth_audience:
            raise ValueError("AUTH_ISSUER, AUTH_AUDIENCE: are both required for tokens, or those of others would pass")
        if len(set(self.auth_issuer)) != len(sources) or len(self.auth_issuer) != len(sources):
            raise ValueError(
                "AUTH_ISSUER: must name one issuer, or two different ones, separated by a comma, with both "
                "AUTH_JWT_SECRET and AUTH_JWKS_URL"
            )
        return self

    @property
    def log_threshold(self) -> LogLevel:
        """The least level that is logged."""
        return "debug" if self.debug else self.log_level

    @property
    def auth(self) -> AuthMode:
        """The credentials that requests need.

        Derived from the settings alone: if it depended on which keys there are, revoking the last one would open the
        service.
        """
        if self.auth_mode != "auto":
            return self.auth_mode
        return "none" if self.auth_jwt_secret is None and self.auth_jwks_url is None else "jwt"

    @property
    def leaves_room_for_messages(self) -> bool:
        """Whether the system prompt leaves room for a short message within the context budget."""
        return required_tokens(self.system_prompt, "") + MIN_MESSAGE_TOKENS <= self.context_tokens

    @property
    def body_limit(self) -> int:
        """Maximum size of a request body, in bytes."""
        return self.max_body_bytes or self.sufficient_body_bytes

    @property
    def sufficient_body_bytes(self) -> int:
        """A limit that no valid request exceeds, even if its client escapes every character."""
        return ESCAPED_CHAR_BYTES * max(self.max_message_chars, MAX_FACT_CHARS) + BODY_OVERHEAD

    @property
    def database(self) -> str:
        """The database URL, or the embedded default. May contain a password."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data_dir / 'chat.db'}"

    @property
    def database_host(self) -> str | None:
        """Host and port of the database server, without credentials; None for SQLite."""
        if self.database_backend == "none" or self.database.startswith("sqlite:"):
            return None
        return _host_of(self.database) or "localhost"

    @property
    def database_backend(self) -> Literal["sql", "none"]:
        """`none` if neither history nor memory is stored in the database."""
        return "sql" if "sql" in (self.history_backend, self.memory_backend) else "none"

    @property
    def key_database(self) -> str:
        """The URL of the database of the API keys: that of the history, or one of their own. May contain a password."""
        return self.database if self.database_backend == "sql" else f"sqlite:///{self.data_dir / 'keys.db'}"

    @property
    def key_store(self) -> Literal["sql", "own", "none"]:
        """Where API keys are stored: in the database, in one of their own because there is none, or nowhere."""
        if "api_key" not in self.auth:
            return "none"
        return "sql" if self.database_backend == "sql" else "own"

    @property
    def coordination(self) -> Literal["sql", "in_process"]:
        """Where workers coordinate: in the database, if it is one that they can share, or not at all."""
        return "in_process" if self.history_backend != "sql" or self.database.startswith("sqlite:") else "sql"

    @property
    def has_model(self) -> bool:
        """Whether a model is configured."""
        return self.openai_api_key is not None or self.openai_base_url is not None

    @property
    def model_host(self) -> str:
        """Host and port of the model's service, without credentials."""
        return _host_of(self.openai_base_url) if self.openai_base_url else "api.openai.com"

    @property
    def memory_host(self) -> str | None:
        """Host and port of Mem0's platform, without credentials; None for other memories."""
        if self.memory_backend != "mem0_platform":
            return None
        return _host_of(self.mem0_host) if self.mem0_host else "api.mem0.ai"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes on this machine can connect."""
        return is_loopback(self.host)

    def require_authentication(self) -> None:
        """Raise Unusable if other machines could use the service without a credential.

        Not validated on construction: commands like `migrate` and `keys` serve nobody.
        """
        if self.auth == "none" and not self.is_loopback and not self.chat_dangerously_allow_unauthenticated:
            raise Unusable(
                f"HOST: {self.host} can be reached from other machines, but there is no authentication: set "
                f"AUTH_MODE=api_key and create a key with `{program()} keys create --role service`, or configure jwt, "
                "or listen on 127.0.0.1, or, if something else authenticates every client, set "
                "CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED=true"
            )

    def require_model(self) -> None:
        """Raise Unusable unless a model is configured.

        Not validated on construction: `serve --local` brings its own model, and `migrate` needs none.
        """
        if not self.has_model:
            raise Unusable(
                "No model is configured: set OPENAI_API_KEY (or OPENAI_BASE_URL for another server) in the "
                f"environment or in .env, or try the embedded model with: {program()} serve --local"
            )


SECRETS_DIRECTORY: Final = Path("/run/secrets")
"""Where Docker and Kubernetes put secrets, a file each. systemd names its directory in `CREDENTIALS_DIRECTORY`."""


ENV_FILE: Final = Path(".env")


class InvalidOption(Unusable):
    """The value of an option of the command is invalid."""


def load_settings(options: Mapping[str, str] | None = None, env_file: Path = ENV_FILE) -> Settings:
    """Read the settings from `options`, the environment, `env_file` and the directory of secrets, in this order.

    `options` are those of the command, by the names of fields.

    Raises:
        Unusable: A value is invalid. The message names its variable or option and does not quote the value.
    """
    options = options or {}
    require_parsable(env_file, {name.upper() for name in Settings.model_fields}, os.environ)
    require_certificates(os.environ.get("SSL_CERT_FILE"))
    directory = secrets_directory(options, env_file)
    try:
        return Settings(_env_file=env_file, _secrets_dir=directory, **dict[str, Any](options))
    except (OSError, UnicodeDecodeError, SettingsError):
        raise Unusable(f"The secrets in {directory} cannot be read; check the permissions of its files.") from None
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        kind = InvalidOption if any(_field(one) in options for one in found) else Unusable
        raise kind("; ".join(_sentence(one, options) for one in found)) from None


def secrets_directory(options: Mapping[str, str], env_file: Path) -> Path | None:
    """Return the directory of secrets, or None if there is none.

    Raises:
        Unusable: The one that is named does not exist.
    """
    named = options.get("secrets_dir") or environment().get("SECRETS_DIR") or values(env_file).get("SECRETS_DIR")
    if named and named.strip():
        directory = Path(os.path.expandvars(os.path.expanduser(named.strip())))
        if not directory.is_dir():
            raise Unusable("SECRETS_DIR: is not a directory, or cannot be read")
        return directory
    directory = Path(os.environ.get("CREDENTIALS_DIRECTORY") or SECRETS_DIRECTORY)
    return directory if directory.is_dir() else None


def option_of(name: str) -> str:
    """Return the option for a field.

    >>> option_of("root_path")
    '--root-path'
    """
    return "--" + name.replace("_", "-")


def is_secret(name: str) -> bool:
    """Return whether a setting holds a secret, or, as a URL may, a password."""
    return "SecretStr" in str(Settings.model_fields[name].annotation)


class _WithoutEmptyKeys(PydanticBaseSettingsSource):
    """Values of another source."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in self._source().items() if not _is_no_key(name, value)}


def _is_no_key(name: str, value: Any) -> bool:
    is_key = name.endswith(("_key", "_secret"))
    return is_key and isinstance(value, str) and (not trimmed(value) or trimmed(value) in SAMPLE_KEYS)


def environment() -> dict[str, str]:
    """Return the environment variables by their names in upper case."""
    return {name.upper(): value for name, value in os.environ.items()}


def _host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _field(error: Any) -> str:
    """Return the field of an error, or nothing if it is about several."""
    return str(error["loc"][0]) if error["loc"] else ""


def _sentence(error: Any, options: Mapping[str, str]) -> str:
    message, name = error["msg"].removeprefix("Value error, "), _field(error)
    if not name:  # the message names the fields
        return str(message)
    choices = _choices(name) if error["type"] == "literal_error" else ()
    if choices:
        message = "must be one of " + ", ".join(choices)
    place = option_of(name) if name in options else name.upper()
    return f"{place}: {message[0].lower()}{message[1:]}"


def _choices(name: str) -> tuple[str, ...]:
    """Return the values of a `Literal`, which may be optional."""
    annotation = Settings.model_fields[name].annotation
    arguments = get_args(annotation)
    nested = [choice for argument in arguments for choice in get_args(argument)]
    return tuple(choice for choice in (nested or arguments) if isinstance(choice, str))
