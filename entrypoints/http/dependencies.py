"""The dependencies of routes, e.g. `send: SendMessageDep`."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import anyio
from fastapi import Depends, Request

from application.health import CheckHealth, CheckReadiness
from application.memory.facts import (
    CorrectMemory,
    ForgetMemories,
    ForgetMemory,
    ListMemories,
    RecallMemories,
    StoreFact,
)
from application.turns.access import FollowTurn, GetTurn, StopTurn, StopTurnWhenLeft
from application.turns.answer_unstored import AnswerUnstored
from application.turns.history import ClearHistory, GetHistory, ListConversations, RenameConversation
from application.turns.send_message import SendMessage
from domain.principal import Principal
from entrypoints.container import Container
from entrypoints.http.policies import principal_of
from entrypoints.settings import Settings


def provided(name: str) -> Any:
    """Depend on the object that the container provides under `name`.

    Raises:
        LookupError: On import, if the container has no such provider.
    """
    if name not in Container.providers:
        raise LookupError(f"the container provides no {name}")

    async def provide(request: Request) -> Any:  # a coroutine: FastAPI would run a plain function in a thread
        return request.app.state.container.providers[name]()

    return Depends(provide)


async def _uptime(request: Request) -> float:
    started_at: float = request.app.state.started_at
    return anyio.current_time() - started_at


async def _principal(request: Request) -> Principal:
    return principal_of(request.scope)


PrincipalDep = Annotated[Principal, Depends(_principal)]
SettingsDep = Annotated[Settings, provided("settings")]
NowDep = Annotated[Callable[[], datetime], provided("now")]
UptimeDep = Annotated[float, Depends(_uptime)]
"""Seconds since the service started."""

SendMessageDep = Annotated[SendMessage, provided("send_message")]
AnswerUnstoredDep = Annotated[AnswerUnstored, provided("answer_unstored")]
GetHistoryDep = Annotated[GetHistory, provided("get_history")]
ListConversationsDep = Annotated[ListConversations, provided("list_conversations")]
RenameConversationDep = Annotated[RenameConversation, provided("rename_conversation")]
ClearHistoryDep = Annotated[ClearHistory, provided("clear_history")]
GetTurnDep = Annotated[GetTurn, provided("get_turn")]
FollowTurnDep = Annotated[FollowTurn, provided("follow_turn")]
StopTurnDep = Annotated[StopTurn, provided("stop_turn")]
StopTurnWhenLeftDep = Annotated[StopTurnWhenLeft, provided("stop_turn_when_left")]
StoreFactDep = Annotated[StoreFact, provided("store_fact")]
ListMemoriesDep = Annotated[ListMemories, provided("list_memories")]
RecallMemoriesDep = Annotated[RecallMemories, provided("recall_memories")]
CorrectMemoryDep = Annotated[CorrectMemory, provided("correct_memory")]
ForgetMemoryDep = Annotated[ForgetMemory, provided("forget_memory")]
ForgetMemoriesDep = Annotated[ForgetMemories, provided("forget_memories")]
CheckReadinessDep = Annotated[CheckReadiness, provided("check_readiness")]
CheckHealthDep = Annotated[CheckHealth, provided("check_health")]
