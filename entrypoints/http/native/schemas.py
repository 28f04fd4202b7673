"""Requests and responses of the native API. Documented keys come first, in the documented order."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetPydanticSchema, WithJsonSchema, model_validator
from pydantic_core import CoreSchema, core_schema

from application.turns.history import Cleared
from application.turns.new_message import NewMessage, WhenBusy
from domain.conversation import (
    DEFAULT_CONVERSATION,
    ID_PATTERN,
    TURN_ID_PATTERN,
    Conversation,
    ConversationId,
    Turn,
    TurnId,
    TurnStatus,
    UserId,
)
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, Recalled
from domain.paging import Page
from domain.principal import Principal
from domain.title import MAX_SET_TITLE_CHARS
from entrypoints.http.timestamp import Timestamp


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

_User = Annotated[str, Field(description="Id of the user.", examples=["user123"])]
_Conversation = Annotated[str, Field(description="Id of the conversation.", examples=["holidays"])]
_UserMessage = Annotated[str, Field(description="The user's message, as sent.", examples=["Hello, how are you today?"])]
_Reply = Annotated[
    str, Field(description="The model's reply; empty if there is none yet.", examples=["Hello! I'm doing well."])
]
_FinishReason = Annotated[
    str | None,
    Field(
        description="Why the model stopped: `length`, `content_filter`, `tool_calls` or `unknown`. Present only if "
        "it is not `stop`.",
        examples=["length"],
    ),
]
_Count = Annotated[int, Field(description="Number of items in this page.", examples=[1])]
_NextCursor = Annotated[
    str | None,
    Field(description="`cursor` of the next, older page; null on the last page.", examples=["1780000000000000"]),
]
_Outcome = Literal["deleted", "pending"]


_TEXT_PATTERN: Final = r"[^\s\x1c-\x1f\x85]|\uFEFF"
"""For the OpenAPI document: not blank. `\\s` there is JavaScript's, which differs from white space in Python."""


def _check_storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain U+0000")
    return text


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return _check_storable(text)


class ChatRequest(BaseModel):
    """A message of a user."""

    user_id: UserIdField = Field(
        description="User who sends the message. May be absent if the request has a user's token."
    )
    message: Annotated[str, AfterValidator(_check_text)] = Field(
        description="The user's message; stored as sent.",
        examples=["Hello, how are you today?"],
        min_length=1,
        json_schema_extra={"pattern": _TEXT_PATTERN},
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
        self,
        principal: Principal,
        on_disconnect: Literal["cancel", "continue"],
        key: str | None = None,
        after: int = 0,
    ) -> NewMessage:
        """`after` is the number of the last event that the client has received, if it sent this message before."""
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

    user_id: _User
    message: _UserMessage
    response: _Reply
    timestamp: Timestamp = Field(description="When the turn began.")
    finish_reason: _FinishReason = None

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
    """A user's message and the reply to it."""

    timestamp: Timestamp = Field(description="When the turn began.")
    user_message: _UserMessage
    assistant_response: _Reply
    id: TurnIdField
    conversation_id: _Conversation
    status: TurnStatus = Field(
        description="`completed`: the model finished. `failed`: an error ended the turn before any text. "
        "`interrupted`: cut off after some text, or stopped.",
        examples=["completed"],
    )
    reason: str | None = Field(
        description="Error code, or a finish reason other than `stop`; null while running or if completed normally.",
        examples=[None],
    )

    @classmethod
    def of(cls, turn: Turn) -> Self:
        return cls(
            timestamp=turn.started_at,
            user_message=turn.user_message,
            assistant_response=turn.reply,
            id=turn.public_id,
            conversation_id=turn.conversation_id,
            status=turn.status,
            reason=turn.reason,
        )


class HistoryView(BaseModel):
    """A page of a user's turns: the newest ones, or those before a cursor."""

    user_id: _User
    history: list[TurnView] = Field(description="Oldest first.")
    count: _Count
    next_cursor: _NextCursor

    @classmethod
    def of(cls, user_id: UserId, page: Page[Turn]) -> Self:
        turns = [TurnView.of(turn) for turn in page.items]
        return cls(user_id=user_id, history=turns, count=len(turns), next_cursor=page.next_cursor)


def _outcome(confirmed: bool) -> _Outcome:
    return "deleted" if confirmed else "pending"


class ClearedView(BaseModel):
    """What was deleted."""

    user_id: _User
    deleted: int = Field(description="Number of turns that were deleted.", examples=[12])
    memories: _Outcome | None = Field(
        None,
        description="Present only with `memories=true`. `pending` if deletion is not confirmed yet and continues in "
        "the background.",
        examples=["deleted"],
    )

    @classmethod
    def of(cls, user_id: UserId, cleared: Cleared) -> Self:
        memories = None if cleared.memories is None else _outcome(cleared.memories)
        return cls(user_id=user_id, deleted=cleared.turns, memories=memories)


class ConversationView(BaseModel):
    """One of a user's conversations."""

    id: _Conversation
    created_at: Timestamp = Field(description="Start of the first turn.")
    updated_at: Timestamp = Field(description="Start of the latest turn.")
    turns: int = Field(description="Number of turns.", examples=[12])
    title: str = Field(
        description="The title that was set, or else the first message, cut to 80 characters.", examples=["Holidays"]
    )

    @classmethod
    def of(cls, conversation: Conversation) -> Self:
        return cls(
            id=conversation.id,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
            turns=conversation.turns,
            title=conversation.title,
        )


class RenameRequest(BaseModel):
    """A new title for a conversation."""

    title: Annotated[str, AfterValidator(_check_storable)] = Field(
        description="New title. If it is blank, the conversation gets the title from its first message again.",
        max_length=MAX_SET_TITLE_CHARS,
        examples=["Holidays"],
    )


class ConversationsView(BaseModel):
    """A page of a user's conversations."""

    user_id: _User
    conversations: list[ConversationView] = Field(description="Most recently updated first.")
    count: _Count
    next_cursor: _NextCursor

    @classmethod
    def of(cls, user_id: UserId, page: Page[Conversation]) -> Self:
        views = [ConversationView.of(conversation) for conversation in page.items]
        return cls(user_id=user_id, conversations=views, count=len(views), next_cursor=page.next_cursor)


Fact = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_FACT_CHARS,
        examples=["Ann's dog is called Bello."],
        json_schema_extra={"pattern": _TEXT_PATTERN},
    ),
    AfterValidator(_check_text),
]
Importance = Annotated[
    float, Field(strict=True, ge=0, le=1, description="Importance, 0 to 1; 0.5 if absent.", examples=[0.8])
]


class FactRequest(BaseModel):
    """A fact to remember about a user."""

    fact: Fact = Field(description="Fact to remember; stored as sent.")
    importance: Importance = DEFAULT_IMPORTANCE


class CorrectionRequest(BaseModel):
    """What to change about a memory: at least one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["fact"], "properties": {"fact": {"type": "string"}}},
                {"required": ["importance"], "properties": {"importance": {"type": "number"}}},
            ]
        }
    )

    fact: Fact | None = Field(
        None, description="New text; unchanged if absent.", examples=["Ann's cat is called Bello."]
    )
    importance: Importance | None = Field(
        None, description="New importance, 0 to 1; unchanged if absent.", examples=[0.9]
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.fact is None and self.importance is None:
            raise ValueError("must have a fact or an importance")
        return self


class MemoryView(BaseModel):
    """A fact about a user."""

    id: MemoryIdField
    fact: str = Field(description="The fact, as stored.", examples=["Ann's dog is called Bello."])
    importance: float = Field(description="Importance, 0 to 1.", examples=[0.8])
    created_at: Timestamp = Field(description="When the fact was stored.")

    @classmethod
    def of(cls, memory: Memory) -> Self:
        return cls(id=memory.id, fact=memory.fact, importance=memory.importance, created_at=memory.created_at)


class MemoriesView(BaseModel):
    """A page of a user's memories."""

    user_id: _User
    memories: list[MemoryView] = Field(description="Newest first.")
    count: _Count
    next_cursor: _NextCursor

    @classmethod
    def of(cls, user_id: UserId, page: Page[Memory]) -> Self:
        views = [MemoryView.of(memory) for memory in page.items]
        return cls(user_id=user_id, memories=views, count=len(views), next_cursor=page.next_cursor)


class RecalledMemoryView(MemoryView):
    """A fact about a user, and how relevant it is."""

    score: float = Field(description="Relevance, 0 to 1; comparable only within one response.", examples=[0.73])


class RecalledView(BaseModel):
    """The memories that match a query."""

    user_id: _User
    memories: list[RecalledMemoryView] = Field(description="Most relevant first.")
    count: _Count
    next_cursor: None = Field(
        None, description="Always null: results are not paged; raise `limit` instead.", examples=[None]
    )

    @classmethod
    def of(cls, user_id: UserId, recalled: Sequence[Recalled]) -> Self:
        views = [RecalledMemoryView(**dict(MemoryView.of(memory)), score=round(score, 4)) for memory, score in recalled]
        return cls(user_id=user_id, memories=views, count=len(views))


class ForgottenMemoryView(BaseModel):
    """The memory that was deleted."""

    user_id: _User
    id: MemoryIdField


class ForgottenView(BaseModel):
    """What became of a user's memories."""

    user_id: _User
    memories: _Outcome = Field(
        description="`pending` if deletion is not confirmed yet and continues in the background.", examples=["deleted"]
    )

    @classmethod
    def of(cls, user_id: UserId, confirmed: bool) -> Self:
        return cls(user_id=user_id, memories=_outcome(confirmed))


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
    finish_reason: _FinishReason = None
    error: StreamError | None = Field(None, description="Why the reply ended early.")
