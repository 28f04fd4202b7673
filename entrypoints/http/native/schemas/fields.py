"""Types of fields that several requests and responses of the native API have."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, GetPydanticSchema, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from domain.conversation import ID_PATTERN, ConversationId, UserId


def _id_schema(kind: type[str]) -> GetPydanticSchema:
    def schema(_source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(kind, core_schema.str_schema())

    return GetPydanticSchema(schema)


_PATTERN: Final = {"pattern": f"^{ID_PATTERN}$"}

UserIdField = Annotated[
    UserId,
    _id_schema(UserId),
    Field(description="Id of the user.", examples=["user123"], json_schema_extra=_PATTERN),
]
ConversationIdField = Annotated[
    ConversationId,
    _id_schema(ConversationId),
    Field(description="Id of a conversation of the user.", examples=["holidays"], json_schema_extra=_PATTERN),
]

_UUID: Final = WithJsonSchema(
    {"type": "string", "format": "uuid", "examples": ["0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"]}
)

TurnIdField = Annotated[str, _UUID, Field(description="Id of the turn.")]
MemoryIdField = Annotated[str, _UUID, Field(description="Id of the memory.")]

OwnerId = Annotated[str, Field(description="Id of the user.", examples=["user123"])]
NamedConversation = Annotated[str, Field(description="Id of the conversation.", examples=["holidays"])]
UserMessage = Annotated[str, Field(description="The user's message, as sent.", examples=["Hello, how are you today?"])]
ReplyText = Annotated[
    str, Field(description="The model's reply; empty if there is none yet.", examples=["Hello! I'm doing well."])
]
FinishReason = Annotated[
    str | None,
    Field(
        description="Why the model stopped: `length`, `content_filter`, `tool_calls` or `unknown`. Present only if "
        "it is not `stop`.",
        examples=["length"],
    ),
]
Count = Annotated[int, Field(description="Number of items in this page.", examples=[1])]
NextCursor = Annotated[
    str | None,
    Field(description="`cursor` of the next, older page; null on the last page.", examples=["1780000000000000"]),
]
Outcome = Literal["deleted", "pending"]

TEXT_PATTERN: Final = r"[^\s\x1c-\x1f\x85]|\uFEFF"
"""For the OpenAPI document: not blank. `\\s` there is JavaScript's, which differs from white space in Python."""


def check_storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain U+0000")
    return text


def check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return check_storable(text)


def outcome_of(confirmed: bool) -> Outcome:
    return "deleted" if confirmed else "pending"
