"""The request that begins a turn, and the reply that is not streamed. Documented keys come first, in their order."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field

from application.turns.new_message import NewMessage, WhenBusy
from domain.conversation import DEFAULT_CONVERSATION, TURN_ID_PATTERN, Turn, TurnId
from domain.principal import Principal
from entrypoints.http.native.schemas.fields import (
    TEXT_PATTERN,
    ConversationIdField,
    FinishReason,
    OwnerId,
    ReplyText,
    UserIdField,
    UserMessage,
    check_text,
)
from entrypoints.http.timestamp import Timestamp


class ChatRequest(BaseModel):
    """A message of a user."""

    user_id: UserIdField = Field(
        description="User who sends the message. May be absent if the request has a user's token."
    )
    message: Annotated[str, AfterValidator(check_text)] = Field(
        description="The user's message; stored as sent.",
        examples=["Hello, how are you today?"],
        min_length=1,
        json_schema_extra={"pattern": TEXT_PATTERN},
    )
    conversation_id: ConversationIdField | None = Field(
        None, description="Conversation of the user; `default` if absent.", examples=["holidays"]
    )
    on_disconnect: Literal["cancel", "continue"] | None = Field(
        None,
        description=(
            "`cancel` or `continue` the reply when its last reader disconnects. Default: `continue` with an "
            "`Idempotency-Key` or a `turn_id`, otherwise the server's setting."
        ),
        examples=["continue"],
    )
    when_busy: Literal["wait", "reject", "interrupt"] = Field(
        "wait",
        description=(
            "If another turn of the conversation is running: `wait` for it (the default), `reject` with 409, or "
            "`interrupt` it: it ends as `superseded`, and this one runs next."
        ),
        examples=["wait"],
    )
    memory: bool = Field(
        True,
        strict=True,
        description="If false, this turn neither recalls memories nor is stored in memory. Default: true.",
        examples=[True],
    )
    turn_id: TurnId | None = Field(
        None,
        description=(
            "Id for the turn, chosen by the client: a random lower-case UUID. By it, the turn can be stopped, followed "
            "and found before the reply begins. A repeated request with the same id gets the turn of the first one, as "
            "with an `Idempotency-Key`."
        ),
        pattern=f"^{TURN_ID_PATTERN}$",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
    )

    def to_message(
        self, principal: Principal, on_disconnect: Literal["cancel", "continue"], key: str | None, after: int = 0
    ) -> NewMessage:
        """Return the message for the use case.

        `key` is the request's idempotency key. `after` is the number of the last event that the client has received, if
        it sent this message before. `on_disconnect` is the setting.
        """
        # A cut connection is why clients repeat requests: by default, it must not end a turn that they can name.
        policy = self.on_disconnect or ("continue" if key or self.turn_id else on_disconnect)
        return NewMessage(
            self.user_id,
            self.conversation_id or DEFAULT_CONVERSATION,
            self.message,
            keep_running=policy == "continue",
            when_busy=WhenBusy(self.when_busy),
            use_memory=self.memory,
            key=key,
            after=after,
            principal=principal,
            turn_id=self.turn_id,
        )


class SimpleReply(BaseModel):
    """A whole reply."""

    user_id: OwnerId
    message: UserMessage
    response: ReplyText
    timestamp: Timestamp = Field(description="When the turn began.")
    finish_reason: FinishReason = None

    @classmethod
    def of(cls, turn: Turn) -> Self:
        return cls(
            user_id=turn.user_id,
            message=turn.user_message,
            response=turn.reply,
            timestamp=turn.started_at,
            finish_reason=turn.reason,
        )
