"""Settings of what is stored besides memories, and where."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from entrypoints.configuration.types import ExpandedPath
from entrypoints.configuration.urls import DatabaseURL, require_no_url_syntax


class StorageSettings(BaseModel):
    """Where turns are stored, in which database, and where files are."""

    history_backend: Literal["sql", "in_memory"] = Field(
        "sql", description="Where turns are stored: `sql` (the database) or `in_memory` (lost on restart)."
    )
    database_url: DatabaseURL | None = Field(
        None,
        description="URL of the database: `sqlite:///path` or `postgresql://user:password@host/database`. "
        "Empty: `sqlite:///{DATA_DIR}/chat.db`.",
    )
    data_dir: ExpandedPath = Field(Path("data"), description="Directory for all files the service writes.")

    @field_validator("data_dir")
    @classmethod
    def _fits_a_url(cls, value: Path) -> Path:
        require_no_url_syntax(str(value))
        return value

    @property
    def database(self) -> str:
        """The database URL, or the embedded default. May contain a password."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data_dir / 'chat.db'}"

    @property
    def coordination(self) -> Literal["sql", "in_process"]:
        """Where workers coordinate: in the database, if it is one that they can share, or not at all."""
        return "in_process" if self.history_backend != "sql" or self.database.startswith("sqlite:") else "sql"
