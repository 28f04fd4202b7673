"""Settings of turns, and of the requests that begin them."""

from typing import Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from domain.context import required_tokens
from domain.memory import MAX_FACT_CHARS
from entrypoints.configuration.types import Seconds

DEFAULT_PROMPT: Final = (
    "You are a helpful assistant. Answer clearly and concisely, in the language you are asked in, "
    "and say so when you do not know."
)

_ESCAPED_CHAR_BYTES: Final = 12
"""Most bytes of a character in JSON: an escaped surrogate pair, e.g. `\\ud83d\\ude00`."""

_BODY_OVERHEAD: Final = 16_000
"""Bytes of a request body for everything but its text, e.g. the ids."""

_MIN_MESSAGE_TOKENS: Final = 30
"""Tokens of the context budget that the system prompt has to leave for a message."""

PROMPT_TOO_LONG: Final = (
    "SYSTEM_PROMPT: leaves no room for messages within CONTEXT_TOKENS; shorten the one or raise the other"
)


class TurnSettings(BaseModel):
    """What a turn may consist of, and how long it may take."""

    system_prompt: str = Field(
        DEFAULT_PROMPT, description="System prompt, sent with every request to the model. Empty: none is sent."
    )
    context_tokens: int = Field(
        14_000,
        ge=100,
        le=10_000_000,
        description="Token budget for system prompt, recent turns and message together.",
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
    on_disconnect: Literal["cancel", "continue"] = Field(
        "cancel", description="When the last reader of a stream disconnects: `cancel` the reply or `continue` it."
    )
    turn_timeout: Seconds = Field(300, description="Time limit of a turn, in seconds.")
    header_hold: Seconds = Field(
        10, description="Seconds to hold back a stream's response headers until the model accepts the request."
    )
    comment_interval: Seconds = Field(15, description="Seconds between keep-alive comments on an idle stream.")

    @model_validator(mode="after")
    def _has_room_for_messages(self) -> Self:
        if not self.leaves_room_for_messages:
            raise ValueError(PROMPT_TOO_LONG)
        return self

    @property
    def leaves_room_for_messages(self) -> bool:
        """Whether the system prompt leaves room for a short message within the context budget."""
        return required_tokens(self.system_prompt, "") + _MIN_MESSAGE_TOKENS <= self.context_tokens

    @property
    def body_limit(self) -> int:
        """Maximum size of a request body, in bytes."""
        return self.max_body_bytes or self.sufficient_body_bytes

    @property
    def sufficient_body_bytes(self) -> int:
        """A limit that no valid request exceeds, even if its client escapes every character."""
        return _ESCAPED_CHAR_BYTES * max(self.max_message_chars, MAX_FACT_CHARS) + _BODY_OVERHEAD
