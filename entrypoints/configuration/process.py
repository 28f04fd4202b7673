"""Settings of the process: its name, log, connections and shutdown."""

from importlib.util import find_spec
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from entrypoints.configuration.keys import NoKey, PseudonymKey
from entrypoints.configuration.types import ExpandedPath, LogLevel, Seconds


class ProcessSettings(BaseModel):
    """How the process calls itself, logs, treats slow clients and ends."""

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
    log_pseudonym_key: PseudonymKey | None = Field(
        None,
        description="Key of the pseudonyms of users in the log, for several hosts to use the same. Empty: one is "
        "created in `DATA_DIR`.",
    )
    secrets_dir: ExpandedPath | None = Field(
        None,
        description="Directory with a file for each secret, named like the setting in lower case. Empty: systemd's "
        "`CREDENTIALS_DIRECTORY`, or `/run/secrets`.",
    )
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

    @field_validator("event_loop")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value == "uvloop" and find_spec("uvloop") is None:
            raise ValueError("must be auto or asyncio, since uvloop is not installed")
        return value

    @property
    def log_threshold(self) -> LogLevel:
        """The least level that is logged."""
        return "debug" if self.debug else self.log_level
