"""Requests and responses of the native API. Documented keys come first, in the documented order."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema, model_validator
from pydantic_core import CoreSchema, core_schema

from application.turns.history import Cleared
from application.turns.new_message import NewMessage, WhenBusy
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
from domain.principal import Principal
from entrypoints.http.timestamp import Timestamp


def _id_schema(kind: type[str]) -> GetPydanticSchema:
    def schema(_source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(kind, core_schema.str_schema())

    return GetPydanticSchema(schema)


_ID_FIELD = Field(json_schema_extra={"pattern": f"^{ID_PATTERN}$"}, examples=["user123"])

UserIdField = Annotated[UserId, _id_schema(UserId), _ID_FIELD]
ConversationIdField = Annotated[ConversationId, _id_schema(ConversationId), _ID_FIELD]


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    if "\x00" in text:
        raise ValueError("must not contain U+0000")
    return text


class ChatRequest(BaseModel):
    user_id: UserIdField = Field(
        description="User who sends the message. May be absent if the request has a user's token."
    )
    message: Annotated[str, AfterValidator(_check_text)] = Field(
        description="The user's message; stored as sent.", examples=["Hello, how are you today?"], min_length=1
    )
    conversation_id: ConversationIdField | None = Field(
        None, description="Conversation of the user; `default` if absent."
    )
    on_disconnect: Literal["cancel", "continue"] | None = Field(
        None,
        description=(
            "`cancel` or `continue` the reply when its last reader disconnects. Default: `continue` with an "
            "`Idempotency-Key`, otherwise the server's setting."
        ),
    )
    when_busy: Literal["wait", "reject", "interrupt"] = Field(
        "wait",
        description=(
            "If another turn of the conversation is running: `wait` for it, `reject` with 409, or `interrupt` it: it "
            "ends as `superseded`, and this one runs next."
        ),
    )
    memory: bool = Field(
        True,
        strict=True,
        description="If false, this turn neither recalls memories nor is stored in memory.",
    )

    def to_message(
        self,
        principal: Principal,
        on_disconnect: Literal["cancel", "continue"],
        key: str | None = None,
        after: int = 0,
    ) -> NewMessage:
        """`after` is the number of the last event that the client has received, if it sent this message before."""
        # A cut connection is why clients repeat requests: by default, it must not end the turn of a key.
        policy = self.on_disconnect or ("continue" if key else on_disconnect)
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
        )


class SimpleReply(BaseModel):
    user_id: str
    message: str
    response: str
    timestamp: Timestamp
    finish_reason: str | None = Field(None, description="Present only if it is not `stop`.")

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
    reason: str | None = Field(
        description="Error code, or a finish reason other than `stop`; null while running or if completed normally."
    )

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
    next_cursor: str | None = Field(description="Cursor of the next, older page; null on the last page.")

    @classmethod
    def of(cls, user_id: UserId, page: Page[Turn]) -> Self:
        turns = [TurnView.of(turn) for turn in page.items]
        return cls(user_id=user_id, history=turns, count=len(turns), next_cursor=page.next_cursor)


def _outcome(confirmed: bool) -> Literal["deleted", "pending"]:
    return "deleted" if confirmed else "pending"


class ClearedView(BaseModel):
    user_id: str
    deleted: int
    memories: Literal["deleted", "pending"] | None = Field(None, description="Present only with `memories=true`.")

    @classmethod
    def of(cls, user_id: UserId, cleared: Cleared) -> Self:
        memories = None if cleared.memories is None else _outcome(cleared.memories)
        return cls(user_id=user_id, deleted=cleared.turns, memories=memories)


class ConversationView(BaseModel):
    id: str
    created_at: Timestamp
    updated_at: Timestamp = Field(description="Start of the latest turn.")
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
    conversations: list[ConversationView] = Field(description="Most recently updated first.")
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
Importance = Annotated[float, Field(strict=True, ge=0, le=1, description="Importance, 0 to 1.")]


class FactRequest(BaseModel):
    fact: Fact = Field(description="Fact to remember; stored as sent.")
    importance: Importance = DEFAULT_IMPORTANCE


class CorrectionRequest(BaseModel):
    fact: Fact | None = Field(None, description="New text; unchanged if absent.")
    importance: Importance | None = Field(None, description="New importance, 0 to 1; unchanged if absent.")

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
    next_cursor: str | None = Field(description="Cursor of the next, older page; null on the last page.")

    @classmethod
    def of(cls, user_id: UserId, page: Page[Memory]) -> Self:
        views = [MemoryView.of(memory) for memory in page.items]
        return cls(user_id=user_id, memories=views, count=len(views), next_cursor=page.next_cursor)


class RecalledMemoryView(MemoryView):
    score: float = Field(description="Relevance, 0 to 1; comparable only within one response.")


class RecalledView(BaseModel):
    user_id: str
    memories: list[RecalledMemoryView] = Field(description="Most relevant first.")
    count: int
    next_cursor: None = Field(None, description="Always null: results are not paged; raise `limit` instead.")

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
        description="`pending` if deletion is not confirmed yet and continues in the background."
    )

    @classmethod
    def of(cls, user_id: UserId, confirmed: bool) -> Self:
        return cls(user_id=user_id, memories=_outcome(confirmed))


class StreamError(BaseModel):
    code: str
    title: str
    detail: str
    turn_id: str
    retryable: bool


class StreamEvent(BaseModel):
    """The data of one event of a streamed reply."""

    content: str = Field(description="The next part of the reply; empty in the last event.")
    done: bool = Field(description="True in the last event. Without `error`, the reply is stored durably.")
    finish_reason: str | None = Field(None, description="Why the model stopped; present only if it is not `stop`.")
    error: StreamError | None = Field(None, description="Why the reply ended early.")
