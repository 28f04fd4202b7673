"""Settings of `/v1`, the API in OpenAI's format."""

from typing import Literal

from pydantic import BaseModel, Field

from entrypoints.configuration.types import CommaSeparated


class OpenAIWireSettings(BaseModel):
    """What clients of `/v1` may choose, and which of their requests belong to conversations."""

    v1_models: CommaSeparated[str] = Field(
        (), description="Comma-separated models that clients of `/v1` may choose besides `OPENAI_MODEL`."
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
