"""A user's turns and conversations."""

from typing import Annotated

from fastapi import APIRouter, Query

from domain.errors import UnknownCursor
from entrypoints.http.dependencies import ClearHistoryDep, GetHistoryDep, ListConversationsDep
from entrypoints.http.errors import invalid_request
from entrypoints.http.native.schemas import (
    ClearedView,
    ConversationIdField,
    ConversationsView,
    HistoryView,
    UserIdField,
)
from entrypoints.http.openapi import MEMORY, STORE, problems

router = APIRouter(prefix="/api/chat", tags=["history"])

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[str | None, Query(description="The `next_cursor` of the page before.")]
OneConversation = Annotated[
    ConversationIdField | None, Query(alias="conversation_id", description="Only this one; all where absent.")
]
_PROBLEMS = problems(UnknownCursor, *STORE)


@router.get("/history/{user_id}", summary="A user's turns", responses=_PROBLEMS)
async def get_history(
    user_id: UserIdField,
    get: GetHistoryDep,
    conversation_id: OneConversation = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> HistoryView:
    return HistoryView.of(user_id, await get(user_id, conversation_id, limit, cursor))


@router.delete(
    "/history/{user_id}",
    summary="Delete a user's turns",
    response_model_exclude_none=True,
    responses=problems(UnknownCursor, *STORE, *MEMORY),
)
async def clear_history(
    user_id: UserIdField,
    clear: ClearHistoryDep,
    conversation_id: OneConversation = None,
    memories: Annotated[bool, Query(description="Forget the user's memories too.")] = False,
) -> ClearedView:
    if memories and conversation_id is not None:
        raise invalid_request(422, "#/query/memories", "must be left out with a conversation: memories belong to none")
    return ClearedView.of(user_id, await clear(user_id, conversation_id, memories=memories))


@router.get("/conversations/{user_id}", summary="A user's conversations", responses=_PROBLEMS)
async def list_conversations(
    user_id: UserIdField, list_them: ListConversationsDep, limit: Limit = 50, cursor: Cursor = None
) -> ConversationsView:
    return ConversationsView.of(user_id, await list_them(user_id, limit, cursor))
