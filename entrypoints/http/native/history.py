"""A user's history: list turns and conversations, delete turns, rename conversations."""

from typing import Annotated

from fastapi import APIRouter, Query

from domain.errors import ConversationNotFound, UnknownCursor
from entrypoints.http.dependencies import (
    ClearHistoryDep,
    GetHistoryDep,
    ListConversationsDep,
    RenameConversationDep,
)
from entrypoints.http.native.schemas.conversations import (
    ClearedView,
    ConversationsView,
    ConversationView,
    RenameRequest,
)
from entrypoints.http.native.schemas.fields import ConversationIdField, UserIdField
from entrypoints.http.native.schemas.history import HistoryView
from entrypoints.http.policies import Policy, requires
from entrypoints.http.request_problems import invalid_request
from entrypoints.http.responses import BODY, LIVE, MEMORY, STORE, problems
from entrypoints.http.routing import SecuredRoute

router = APIRouter(prefix="/api/chat", tags=["history"], route_class=SecuredRoute)

Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items.", examples=[50])]
Cursor = Annotated[
    str | None,
    Query(description="`next_cursor` of the previous page; the first page if absent.", examples=["1780000000000000"]),
]
OneConversation = Annotated[
    ConversationIdField | None,
    Query(
        alias="conversation_id",
        description="Conversation id; all of the user's conversations if absent.",
        examples=["holidays"],
    ),
]
_PROBLEMS = problems(UnknownCursor, *STORE)


@router.get("/history/{user_id}", summary="List a user's turns", responses=_PROBLEMS)
@requires(Policy.OWNER_IN_PATH)
async def get_history(
    user_id: UserIdField,
    get: GetHistoryDep,
    conversation_id: OneConversation = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> HistoryView:
    """Return the newest turns of all conversations or of one, oldest first, including running and failed ones.

    A user who is not known has an empty history.
    """
    return HistoryView.of(user_id, await get(user_id, conversation_id, limit, cursor))


@router.delete(
    "/history/{user_id}",
    summary="Delete a user's turns",
    response_model_exclude_none=True,
    responses=problems(UnknownCursor, *STORE, *LIVE, *MEMORY),
)
@requires(Policy.OWNER_IN_PATH)
async def clear_history(
    user_id: UserIdField,
    clear: ClearHistoryDep,
    conversation_id: OneConversation = None,
    memories: Annotated[bool, Query(description="Also delete the user's memories.", examples=[False])] = False,
) -> ClearedView:
    """Delete all turns of a user, or those of one conversation. Running ones are stopped.

    No request that is sent after the response sees them. Turns that begin afterwards start an empty history.
    """
    if memories and conversation_id is not None:
        raise invalid_request(422, "#/query/memories", "must be false with conversation_id: memories belong to users")
    return ClearedView.of(user_id, await clear(user_id, conversation_id, memories=memories))


@router.get("/conversations/{user_id}", summary="List a user's conversations", responses=_PROBLEMS)
@requires(Policy.OWNER_IN_PATH)
async def list_conversations(
    user_id: UserIdField, list_page: ListConversationsDep, limit: Limit = 50, cursor: Cursor = None
) -> ConversationsView:
    """Return the conversations of a user, the most recently used first."""
    return ConversationsView.of(user_id, await list_page(user_id, limit, cursor))


@router.patch(
    "/conversations/{user_id}/{conversation_id}",
    summary="Rename a conversation",
    responses=problems(ConversationNotFound, UnknownCursor, *STORE, request=BODY),
)
@requires(Policy.OWNER_IN_PATH)
async def rename_conversation(
    user_id: UserIdField, conversation_id: ConversationIdField, body: RenameRequest, rename: RenameConversationDep
) -> ConversationView:
    """Set the title of a conversation, or reset it to the beginning of the first message. Returns the conversation."""
    return ConversationView.of(await rename(user_id, conversation_id, body.title))
