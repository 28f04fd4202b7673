"""What routes may ask for. Plain functions: a forgotten one fails at start-up, not at the first request.

They are coroutines, since FastAPI sends whatever is not to a thread.
"""

from typing import Annotated

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
from application.turns.access import FollowTurn, GetTurn, StopTurn
from application.turns.history import ClearHistory, GetHistory, ListConversations
from application.turns.send_message import SendMessage
from entrypoints.container import Container
from entrypoints.drain import Drain
from entrypoints.settings import Settings


def _container(request: Request) -> Container:
    container: Container = request.app.state.container
    return container


async def _settings(request: Request) -> Settings:
    return _container(request).settings()


async def _drain(request: Request) -> Drain:
    drain: Drain = request.app.state.drain
    return drain


async def _send_message(request: Request) -> SendMessage:
    return _container(request).send_message()


async def _get_history(request: Request) -> GetHistory:
    return _container(request).get_history()


async def _list_conversations(request: Request) -> ListConversations:
    return _container(request).list_conversations()


async def _clear_history(request: Request) -> ClearHistory:
    return _container(request).clear_history()


async def _get_turn(request: Request) -> GetTurn:
    return _container(request).get_turn()


async def _follow_turn(request: Request) -> FollowTurn:
    return _container(request).follow_turn()


async def _stop_turn(request: Request) -> StopTurn:
    return _container(request).stop_turn()


async def _store_fact(request: Request) -> StoreFact:
    return _container(request).store_fact()


async def _list_memories(request: Request) -> ListMemories:
    return _container(request).list_memories()


async def _recall_memories(request: Request) -> RecallMemories:
    return _container(request).recall_memories()


async def _correct_memory(request: Request) -> CorrectMemory:
    return _container(request).correct_memory()


async def _forget_memory(request: Request) -> ForgetMemory:
    return _container(request).forget_memory()


async def _forget_memories(request: Request) -> ForgetMemories:
    return _container(request).forget_memories()


async def _check_readiness(request: Request) -> CheckReadiness:
    return _container(request).check_readiness()


async def _check_health(request: Request) -> CheckHealth:
    return _container(request).check_health()


SettingsDep = Annotated[Settings, Depends(_settings)]
DrainDep = Annotated[Drain, Depends(_drain)]
SendMessageDep = Annotated[SendMessage, Depends(_send_message)]
GetHistoryDep = Annotated[GetHistory, Depends(_get_history)]
ListConversationsDep = Annotated[ListConversations, Depends(_list_conversations)]
ClearHistoryDep = Annotated[ClearHistory, Depends(_clear_history)]
GetTurnDep = Annotated[GetTurn, Depends(_get_turn)]
FollowTurnDep = Annotated[FollowTurn, Depends(_follow_turn)]
StopTurnDep = Annotated[StopTurn, Depends(_stop_turn)]
StoreFactDep = Annotated[StoreFact, Depends(_store_fact)]
ListMemoriesDep = Annotated[ListMemories, Depends(_list_memories)]
RecallMemoriesDep = Annotated[RecallMemories, Depends(_recall_memories)]
CorrectMemoryDep = Annotated[CorrectMemory, Depends(_correct_memory)]
ForgetMemoryDep = Annotated[ForgetMemory, Depends(_forget_memory)]
ForgetMemoriesDep = Annotated[ForgetMemories, Depends(_forget_memories)]
CheckReadinessDep = Annotated[CheckReadiness, Depends(_check_readiness)]
CheckHealthDep = Annotated[CheckHealth, Depends(_check_health)]
