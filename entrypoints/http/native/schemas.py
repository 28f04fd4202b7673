"""The shapes on the wire. Documented keys come first, in the documented order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema, PlainSerializer, model_validator
from pydantic_core import CoreSchema, core_schema

from application.health import Health
from application.turns.history import Cleared
from application.turns.send_message import NewMessage
from domain.conversation import (
    DEFAULT_CONVERSATION,
    ID_PATTERN,
    Conversation,
    ConversationId,
    Turn,
    TurnStatus,
    UserId,
)
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, Recalled
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


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    if "\x00" in text:
        raise ValueError("must not hold U+0000")
    return text


class ChatRequest(BaseModel):
    user_id: UserIdField = Field(description="Whose conversation it is.")
    message: Annotated[str, AfterValidator(_check_text)] = Field(
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
    memory: bool = Field(
        True,
        strict=True,
        description="Without it nothing is recalled for the reply, and nothing of the turn is remembered.",
    )

    def to_message(self, on_disconnect: Literal["cancel", "continue"]) -> NewMessage:
        policy = self.on_disconnect or on_disconnect
        return NewMessage(
            self.user_id,
            self.conversation_id or DEFAULT_CONVERSATION,
            self.message,
            keep_running=policy == "continue",
            wait_when_busy=self.when_busy == "wait",
            use_memory=self.memory,
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


def _outcome(certain: bool) -> Literal["deleted", "pending"]:
    return "deleted" if certain else "pending"


class ClearedView(BaseModel):
    user_id: str
    deleted: int
    memories: Literal["deleted", "pending"] | None = Field(None, description="Only where they were to be forgotten.")

    @classmethod
    def of(cls, user_id: UserId, cleared: Cleared) -> Self:
        memories = None if cleared.memories is None else _outcome(cleared.memories)
        return cls(user_id=user_id, deleted=cleared.turns, memories=memories)


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


Fact = Annotated[
    str,
    Field(min_length=1, max_length=MAX_FACT_CHARS, examples=["Ann's dog is called Bello."]),
    AfterValidator(_check_text),
]
Importance = Annotated[float, Field(strict=True, ge=0, le=1, description="How much it matters, 0 to 1.")]


class FactRequest(BaseModel):
    fact: Fact = Field(description="What to remember; kept as sent.")
    importance: Importance = DEFAULT_IMPORTANCE


class CorrectionRequest(BaseModel):
    fact: Fact | None = Field(None, description="What it should say; as it was where absent.")
    importance: Importance | None = Field(None, description="How much it matters, 0 to 1; as it was where absent.")

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.fact is None and self.importance is None:
            raise ValueError("must have a fact or an importance")
        return self


class MemoryView(BaseModel):
    id: str
    fact: str
    importance: float
    created_at: Timestamp

    @classmethod
    def of(cls, memory: Memory) -> Self:
        return cls(id=memory.id, fact=memory.fact, importance=memory.importance, created_at=memory.created_at)


class MemoriesView(BaseModel):
    user_id: str
    memories: list[MemoryView] = Field(description="Newest first.")
    count: int
    next_cursor: str | None = Field(description="Leads to older memories; null at the end.")

    @classmethod
    def of(cls, user_id: UserId, page: Page[Memory]) -> Self:
        views = [MemoryView.of(memory) for memory in page.items]
        return cls(user_id=user_id, memories=views, count=len(views), next_cursor=page.next_cursor)


class RecalledMemoryView(MemoryView):
    score: float = Field(description="How well it fits, 0 to 1; comparable within one answer.")


class RecalledView(BaseModel):
    user_id: str
    memories: list[RecalledMemoryView] = Field(description="Best first.")
    count: int
    next_cursor: None = Field(None, description="Always null: ask for more with `limit`.")

    @classmethod
    def of(cls, user_id: UserId, recalled: Sequence[Recalled]) -> Self:
        views = [RecalledMemoryView(**dict(MemoryView.of(memory)), score=round(score, 4)) for memory, score in recalled]
        return cls(user_id=user_id, memories=views, count=len(views))


class ForgottenMemoryView(BaseModel):
    user_id: str
    id: str


class ForgottenView(BaseModel):
    user_id: str
    memories: Literal["deleted", "pending"] = Field(
        description="`pending` where that is not certain yet, and goes on in the background."
    )

    @classmethod
    def of(cls, user_id: UserId, certain: bool) -> Self:
        return cls(user_id=user_id, memories=_outcome(certain))


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
    memory: Literal["ok", "unavailable"]


class MemoryWorkView(BaseModel):
    pending: int | None = Field(description="Turns still to be remembered; null where the history does not tell.")
    dead: int | None = Field(description="Turns that were given up.")
    forgetting: int | None = Field(description="Users still to be forgotten.")
    failed_recalls: int = Field(description="Turns that had to do without memory since the start.")


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
    memory: MemoryWorkView
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
                memory="unavailable" if health.memory_failure else "ok",
            ),
            running_turns=health.running_turns,
            memory=MemoryWorkView(
                pending=health.outbox and health.outbox.pending,
                dead=health.outbox and health.outbox.dead,
                forgetting=health.outbox and health.outbox.forgetting,
                failed_recalls=health.failed_recalls,
            ),
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
