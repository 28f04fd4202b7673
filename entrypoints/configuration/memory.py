"""Settings of long-term memory."""

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from entrypoints.configuration.keys import Key, NoKey
from entrypoints.configuration.types import ExpandedPath, Seconds
from entrypoints.configuration.urls import VectorStoreURL, WebURL, host_of


class MemorySettings(BaseModel):
    """Where memories of users are stored, and how facts are extracted and recalled."""

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

    @model_validator(mode="after")
    def _has_memory_key(self) -> Self:
        if self.memory_backend == "mem0_platform" and self.mem0_api_key is None:
            raise ValueError("MEM0_API_KEY: is required when MEMORY_BACKEND is mem0_platform")
        return self

    @property
    def memory_host(self) -> str | None:
        """Host and port of Mem0's platform, without credentials; None for other memories."""
        if self.memory_backend != "mem0_platform":
            return None
        return host_of(self.mem0_host) if self.mem0_host else "api.mem0.ai"
