"""The shapes on the wire. Documented keys come first, in the documented order."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema, PlainSerializer
from pydantic_core import CoreSchema, core_schema

from application.health import Health
from application.send_message import NewMessage
from domain.conversation import (
    DEFAULT_CONVERSATION,
    ID_PATTERN,
    Conversation,
    ConversationId,
    Turn,
    TurnStatus,
    UserId,
)
from domain.paging import Page


def _id_schema(kind: type[str]) -> GetPydanticSchema:
    def schema(_source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(kind, core_schema.str_schema())

    return GetPydanticSchema(schema)


_ID_FIELD = Field(json_schema_extra={"pattern": f"^{ID_PATTERN}$"}, examples=["user123"])

UserIdField = Annotated[UserId, _id_schema(UserId), _ID_FIELD]
ConversationIdField = Annotated[ConversationId, _id_schema(ConversationId), _ID_FIELD]

Timestamp = Annotated[
    datetime,
    PlainSerializer(lambda moment: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str),
]
"""RFC 3339, UTC, whole seconds, as documented."""


def _check_message(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    if "\x00" in text:
        raise ValueError("must not hold U+0000")
    return text


class ChatRequest(BaseModel):
    user_id: UserIdField = Field(description="Whose conversation it is.")
    message: Annotated[str, AfterValidator(_check_message)] = Field(
        description="What the user says; kept as sent.", examples=["Hello, how are you today?"], min_length=1
    )
    conversation_id: ConversationIdField | None = Field(
        None, description="Which of the user's conversations; `default` where absent."
    )
    on_disconnect: Literal["cancel", "continue"] | None = Field(
        None, description="What becomes of the reply when its last reader leaves; the service's setting where absent."
    )
    when_busy: Literal["wait", "reject"] = Field(
        "wait", description="What to do while another turn of the conversation runs."
    )

    def to_message(self, on_disconnect: Literal["cancel", "continue"]) -> NewMessage:
        policy = self.on_disconnect or on_disconnect
        return NewMessage(
            self.user_id,
            self.conversation_id or DEFAULT_CONVERSATION,
            self.message,
            keep_running=policy == "continue",
            wait_when_busy=self.when_busy == "wait",
        )


class SimpleReply(BaseModel):
    user_id: str
    message: str
    response: str
    timestamp: Timestamp
    finish_reason: str | None = Field(None, description="Only where it is not `stop`.")

    @classmethod
    def of(cls, turn: Turn) -> Self:
        return cls(
            user_id=turn.user_id,
            message=turn.user_message,
            response=turn.reply,
            timestamp=turn.started_at,
            finish_reason=turn.reason,
        )


class TurnView(BaseModel):
    timestamp: Timestamp
    user_message: str
    assistant_response: str
    id: str
    conversation_id: str
    status: TurnStatus
    reason: str | None = Field(description="Why it ended, where not plainly.")

    @classmethod
    def of(cls, turn: Turn) -> Self:
        return cls(
            timestamp=turn.started_at,
            user_message=turn.user_message,
            assistant_response=turn.reply,
            id=turn.id,
            conversation_id=turn.conversation_id,
            status=turn.status,
            reason=turn.reason,
        )


class HistoryView(BaseModel):
    user_id: str
    history: list[TurnView] = Field(description="Oldest first.")
    count: int = Field(description="Turns in this page.")
    next_cursor: str | None = Field(description="Leads to older turns; null at the end.")

    @classmethod
    def of(cls, user_id: UserId, page: Page[Turn]) -> Self:
        turns = [TurnView.of(turn) for turn in page.items]
        return cls(user_id=user_id, history=turns, count=len(turns), next_cursor=page.next_cursor)


class ClearedView(BaseModel):
    user_id: str
    deleted: int


class ConversationView(BaseModel):
    id: str
    created_at: Timestamp
    updated_at: Timestamp = Field(description="When its latest turn began.")
    turns: int

    @classmethod
    def of(cls, conversation: Conversation) -> Self:
        return cls(
            id=conversation.id,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
            turns=conversation.turns,
        )


class ConversationsView(BaseModel):
    user_id: str
    conversations: list[ConversationView] = Field(description="The one with the latest turn first.")
    count: int
    next_cursor: str | None

    @classmethod
    def of(cls, user_id: UserId, page: Page[Conversation]) -> Self:
        views = [ConversationView.of(conversation) for conversation in page.items]
        return cls(user_id=user_id, conversations=views, count=len(views), next_cursor=page.next_cursor)


class StatusView(BaseModel):
    status: Literal["ok", "unavailable"]


class HealthView(BaseModel):
    status: Literal["ok"]
    name: str
    version: str
    time: Timestamp


class ChecksView(BaseModel):
    history: Literal["ok", "unavailable"]
    llm: str = Field(description="`ok`, or the code of what went wrong with the latest call.")


class SystemView(BaseModel):
    python: str
    platform: str
    uptime_seconds: int
    memory_bytes: int = Field(description="The most that the process has held so far.")


class DetailedHealthView(BaseModel):
    status: Literal["ok", "degraded"]
    name: str
    version: str
    time: Timestamp
    checks: ChecksView
    running_turns: int
    system: SystemView

    @classmethod
    def of(cls, health: Health, *, name: str, version: str, time: datetime, system: SystemView) -> Self:
        return cls(
            status="ok" if health.is_well else "degraded",
            name=name,
            version=version,
            time=time,
            checks=ChecksView(
                history="unavailable" if health.history_failure else "ok",
                llm=health.llm_failure.code if health.llm_failure else "ok",
            ),
            running_turns=health.running_turns,
            system=system,
        )


class FieldProblem(BaseModel):
    pointer: str = Field(examples=["#/message"])
    detail: str


class ProblemView(BaseModel):
    """A problem as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; what a program should look at.")
    retryable: bool = Field(description="Whether the same again may work later.")
    request_id: str
    turn_id: str | None = Field(None, description="Once a turn has begun.")
    history: str | None = Field(None, description="Where the turn's text is, for `stream_expired`.")
    errors: list[FieldProblem] | None = Field(None, description="What is wrong where, for `invalid_request`.")


class StreamError(BaseModel):
    code: str
    title: str
    detail: str
    turn_id: str
    retryable: bool


class StreamEvent(BaseModel):
    """The data of one event of a reply."""

    content: str = Field(description="The next piece of the reply; empty in the last event.")
    done: bool = Field(description="True in the last event. Without `error` the reply is stored for good.")
    finish_reason: str | None = Field(None, description="Why the model stopped; only where it is not `stop`.")
    error: StreamError | None = Field(None, description="What cut the reply short.")
