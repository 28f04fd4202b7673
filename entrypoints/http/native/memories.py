"""A user's long-term memory: store, list, search, correct and delete."""

from typing import Annotated

from fastapi import APIRouter, Query

from application.ports.memory import MemoryDisabled
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import parse_memory_id
from entrypoints.http.dependencies import (
    CorrectMemoryDep,
    ForgetMemoriesDep,
    ForgetMemoryDep,
    ListMemoriesDep,
    RecallMemoriesDep,
    StoreFactDep,
)
from entrypoints.http.native.history import Cursor, Limit
from entrypoints.http.native.schemas.fields import MemoryIdField, UserIdField
from entrypoints.http.native.schemas.memories import (
    CorrectionRequest,
    FactRequest,
    ForgottenMemoryView,
    ForgottenView,
    MemoriesView,
    MemoryView,
    RecalledView,
)
from entrypoints.http.policies import Policy, requires
from entrypoints.http.responses import BODY, MEMORY, STORE, problems
from entrypoints.http.routing import SecuredRoute

router = APIRouter(prefix="/api/memories/{user_id}", tags=["memories"], route_class=SecuredRoute)

_PROBLEMS = (UnknownCursor, *STORE, *MEMORY)


@router.post(
    "",
    status_code=201,
    summary="Store a fact about a user",
    responses=problems(*_PROBLEMS, MemoryDisabled, request=BODY),
)
@requires(Policy.OWNER_IN_PATH)
async def store_fact(user_id: UserIdField, body: FactRequest, store: StoreFactDep) -> MemoryView:
    """Remember a fact about a user. Later turns of any conversation recall it if it is relevant to their message."""
    return MemoryView.of(await store(user_id, body.fact, body.importance))


@router.get("", summary="List a user's memories, newest first", responses=problems(*_PROBLEMS))
@requires(Policy.OWNER_IN_PATH)
async def list_memories(
    user_id: UserIdField, list_page: ListMemoriesDep, limit: Limit = 50, cursor: Cursor = None
) -> MemoriesView:
    """Return what is known about a user."""
    return MemoriesView.of(user_id, await list_page(user_id, limit, cursor))


@router.get("/search", summary="Search a user's memories, most relevant first", responses=problems(*_PROBLEMS))
@requires(Policy.OWNER_IN_PATH)
async def search_memories(
    user_id: UserIdField,
    recall: RecallMemoriesDep,
    q: Annotated[
        str,
        Query(description="Text to search for.", min_length=1, max_length=1000, examples=["What is my dog called?"]),
    ],
    limit: Annotated[int, Query(ge=1, le=50, description="Maximum number of memories.", examples=[10])] = 10,
) -> RecalledView:
    """Return the memories that a message with this text would recall, and how relevant each of them is."""
    return RecalledView.of(user_id, await recall(user_id, q, limit))


@router.patch("/{memory_id}", summary="Correct a memory", responses=problems(MemoryNotFound, *_PROBLEMS, request=BODY))
@requires(Policy.OWNER_IN_PATH)
async def correct_memory(
    user_id: UserIdField, memory_id: MemoryIdField, body: CorrectionRequest, correct: CorrectMemoryDep
) -> MemoryView:
    """Change the text or the importance of a memory, or both."""
    return MemoryView.of(await correct(user_id, parse_memory_id(memory_id), body.fact, body.importance))


@router.delete("/{memory_id}", summary="Delete a memory", responses=problems(MemoryNotFound, *_PROBLEMS))
@requires(Policy.OWNER_IN_PATH)
async def forget_memory(user_id: UserIdField, memory_id: MemoryIdField, forget: ForgetMemoryDep) -> ForgottenMemoryView:
    """Delete one memory. Turns that begin after the response do not recall it."""
    await forget(user_id, parse_memory_id(memory_id))
    return ForgottenMemoryView(user_id=user_id, id=memory_id)


@router.delete("", summary="Delete all memories of a user", responses=problems(*_PROBLEMS))
@requires(Policy.OWNER_IN_PATH)
async def forget_memories(user_id: UserIdField, forget: ForgetMemoriesDep) -> ForgottenView:
    """Delete everything that is known about a user. What completed turns would still have added is dropped as well.

    While the response is `pending`, none of the memories is shown or recalled any more.
    """
    return ForgottenView.of(user_id, await forget(user_id))
