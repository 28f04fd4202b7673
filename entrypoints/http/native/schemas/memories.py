"""Facts about a user."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from domain.conversation import UserId
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, Recalled
from domain.paging import Page
from entrypoints.http.native.schemas.fields import (
    TEXT_PATTERN,
    Count,
    MemoryIdField,
    NextCursor,
    Outcome,
    OwnerId,
    check_text,
    outcome_of,
)
from entrypoints.http.timestamp import Timestamp

Fact = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_FACT_CHARS,
        examples=["Ann's dog is called Bello."],
        json_schema_extra={"pattern": TEXT_PATTERN},
    ),
    AfterValidator(check_text),
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

    user_id: OwnerId
    memories: list[MemoryView] = Field(description="Newest first.")
    count: Count
    next_cursor: NextCursor

    @classmethod
    def of(cls, user_id: UserId, page: Page[Memory]) -> Self:
        views = [MemoryView.of(memory) for memory in page.items]
        return cls(user_id=user_id, memories=views, count=len(views), next_cursor=page.next_cursor)


class RecalledMemoryView(MemoryView):
    """A fact about a user, and how relevant it is."""

    score: float = Field(description="Relevance, 0 to 1; comparable only within one response.", examples=[0.73])


class RecalledView(BaseModel):
    """The memories that match a query."""

    user_id: OwnerId
    memories: list[RecalledMemoryView] = Field(description="Most relevant first.")
    count: Count
    next_cursor: None = Field(
        None, description="Always null: results are not paged; raise `limit` instead.", examples=[None]
    )

    @classmethod
    def of(cls, user_id: UserId, recalled: Sequence[Recalled]) -> Self:
        views = [RecalledMemoryView(**dict(MemoryView.of(memory)), score=round(score, 4)) for memory, score in recalled]
        return cls(user_id=user_id, memories=views, count=len(views))


class ForgottenMemoryView(BaseModel):
    """The memory that was deleted."""

    user_id: OwnerId
    id: MemoryIdField


class ForgottenView(BaseModel):
    """What became of a user's memories."""

    user_id: OwnerId
    memories: Outcome = Field(
        description="`pending` if deletion is not confirmed yet and continues in the background.", examples=["deleted"]
    )

    @classmethod
    def of(cls, user_id: UserId, confirmed: bool) -> Self:
        return cls(user_id=user_id, memories=outcome_of(confirmed))
