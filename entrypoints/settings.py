"""Settings: the only reader of the environment. Those of a topic are a module of `configuration/`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from domain.errors import Unusable
from entrypoints.certificates import require_certificates
from entrypoints.configuration.access import AccessSettings
from entrypoints.configuration.env_file import require_parsable, values
from entrypoints.configuration.keys import SAMPLE_KEYS
from entrypoints.configuration.memory import MemorySettings
from entrypoints.configuration.model import ModelSettings
from entrypoints.configuration.openai_wire import OpenAIWireSettings
from entrypoints.configuration.process import ProcessSettings
from entrypoints.configuration.sources import WithoutEmptyKeys
from entrypoints.configuration.storage import StorageSettings
from entrypoints.configuration.turns import TurnSettings
from entrypoints.configuration.types import QUOTES, trimmed
from entrypoints.configuration.urls import host_of

ENV_FILE: Final = Path(".env")


class Settings(
    ProcessSettings,
    OpenAIWireSettings,
    AccessSettings,
    StorageSettings,
    MemorySettings,
    TurnSettings,
    ModelSettings,
    BaseSettings,
):
    """The service's configuration. Each field is read from the environment variable of its name in upper case.

    The base classes are in the reverse order of their fields, in which documentation and options list them.
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True
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
        return tuple(map(WithoutEmptyKeys, sources))

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

    @property
    def database_backend(self) -> Literal["sql", "none"]:
        """`none` if neither history nor memory is stored in the database."""
        return "sql" if "sql" in (self.history_backend, self.memory_backend) else "none"

    @property
    def database_host(self) -> str | None:
        """Host and port of the database server, without credentials; None for SQLite."""
        if self.database_backend == "none" or self.database.startswith("sqlite:"):
            return None
        return host_of(self.database) or "localhost"

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


SECRETS_DIRECTORY: Final = Path("/run/secrets")
"""Where Docker and Kubernetes put secrets, a file each. systemd names its directory in `CREDENTIALS_DIRECTORY`."""


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
        _require_files(directory)
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


def _require_files(directory: Path | None) -> None:
    """Raise Unusable if the file of a secret cannot be read, or a directory is in its place.

    Such a directory is made by mounting a whole volume there.
    """
    for entry in directory.iterdir() if directory else ():
        if entry.name.lower() not in Settings.model_fields:
            continue
        if entry.is_dir():
            raise Unusable(f"{entry.name.upper()}: {entry} is a directory, but has to be a file with the value")
        if entry.is_file() or entry.is_symlink():  # a pipe is not read
            try:
                entry.open("rb").close()
            except OSError as error:
                raise Unusable(f"{entry.name.upper()}: {entry} cannot be read: {error.strerror}") from None


def option_of(name: str) -> str:
    """Return the option for a field.

    >>> option_of("root_path")
    '--root-path'
    """
    return "--" + name.replace("_", "-")


def is_secret(name: str) -> bool:
    """Return whether a setting holds a secret, or, as a URL may, a password."""
    return "SecretStr" in str(Settings.model_fields[name].annotation)


def environment() -> dict[str, str]:
    """Return the environment variables by their names in upper case."""
    return {name.upper(): value for name, value in os.environ.items()}


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
