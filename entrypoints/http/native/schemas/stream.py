"""The events of a streamed reply."""

from pydantic import BaseModel, Field

from entrypoints.http.native.schemas.fields import FinishReason, TurnIdField


class StreamError(BaseModel):
    """Why a reply ended early."""

    code: str = Field(
        description="Stable, machine-readable identifier of the error.", examples=["upstream_disconnected"]
    )
    title: str = Field(
        description="What the code means, in words.", examples=["The model service closed the connection"]
    )
    detail: str = Field(
        description="What happened this time, for people.", examples=["The model service closed the connection."]
    )
    turn_id: TurnIdField
    retryable: bool = Field(description="Whether the same message may succeed later.", examples=[True])


class StreamEvent(BaseModel):
    """The data of one event of a streamed reply."""

    content: str = Field(
        description="The next part of the reply; empty in the last event.", examples=["Hello! I'm doing well"]
    )
    done: bool = Field(
        description="True in the last event. Without `error`, the reply is stored durably.", examples=[False]
    )
    finish_reason: FinishReason = None
    error: StreamError | None = Field(None, description="Why the reply ended early.")
