"""Looking at, following and stopping one turn."""

from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Response
from pydantic import WithJsonSchema

from domain.conversation import ConversationId, TurnStatus, UserId, parse_turn_id
from domain.errors import Failure, StreamExpired, TurnNotFound
from entrypoints.http.dependencies import FollowTurnDep, GetTurnDep, PrincipalDep, SettingsDep, StopTurnDep
from entrypoints.http.disconnect import closing_on_error
from entrypoints.http.errors import RefusedTurn
from entrypoints.http.event_stream import EventStream
from entrypoints.http.native.schemas.fields import TurnIdField
from entrypoints.http.native.schemas.history import TurnView
from entrypoints.http.native.wire import NativeWire
from entrypoints.http.policies import Policy, requires
from entrypoints.http.request_problems import invalid_request
from entrypoints.http.responses import LIVE, STORE, STREAM, problems
from entrypoints.http.routing import SecuredRoute

_END_TIMEOUT: Final = 1.0
"""Seconds to wait for the end of a turn that has ended: the log of another worker's turn arrives a little later."""

router = APIRouter(prefix="/api/chat/turns", tags=["turns"], route_class=SecuredRoute)


@router.get("/{turn_id}", summary="Get a turn", responses=problems(TurnNotFound, *STORE))
@requires(Policy.OWNER_OF_TURN)
async def get_turn(turn_id: TurnIdField, principal: PrincipalDep, get: GetTurnDep) -> TurnView:
    """Return a turn with the text it has, also while it is running."""
    return TurnView.of(await get(parse_turn_id(turn_id), principal))


@router.post("/{turn_id}/stop", summary="Stop a running turn", responses=problems(TurnNotFound, *STORE, *LIVE))
@requires(Policy.OWNER_OF_TURN)
async def stop_turn(turn_id: TurnIdField, principal: PrincipalDep, stop: StopTurnDep) -> TurnView:
    """Stop the model, and return the turn as it ended: `interrupted`, with the text so far. Can be repeated."""
    return TurnView.of(await stop(parse_turn_id(turn_id), principal))


@router.get(
    "/{turn_id}/stream",
    summary="Stream a running or recently finished turn",
    response_class=Response,
    responses=STREAM
    | {
        204: {"description": "The turn has ended, and `after` is its last event."},
    }
    | problems(TurnNotFound, StreamExpired, *STORE, *LIVE, headers=[(400, "invalid_request")]),
)
@requires(Policy.OWNER_OF_TURN)
async def follow_turn(
    turn_id: TurnIdField,
    principal: PrincipalDep,
    get: GetTurnDep,
    follow: FollowTurnDep,
    settings: SettingsDep,
    last_event_id: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "pattern": "^[0-9]{0,9}$", "examples": ["17"]}),
        Header(description="Number of the last event received."),
    ] = None,
    after: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}$", "examples": ["17"]}),
        Query(description="The same, for clients that cannot set headers."),
    ] = None,
) -> Response:
    """Stream the events of a turn after the last one that was received, then go on until the turn ends.

    Several clients may follow a turn. Its events are kept for ten minutes after its end.
    """
    seen = event_number(last_event_id, after)
    turn = await get(parse_turn_id(turn_id), principal)
    try:
        handle = await follow(turn, seen)
    except StreamExpired as expired:
        history = history_path(turn.user_id, turn.conversation_id)
        raise RefusedTurn(Failure.of(expired), turn.public_id, history) from expired
    has_ended = turn.status is not TurnStatus.IN_PROGRESS
    async with closing_on_error(handle):
        start = await handle.next(_END_TIMEOUT if has_ended else 0)
        if has_ended and start is not None and not start.deltas and start.end is None:  # only that it was accepted
            start = await handle.next(_END_TIMEOUT) or start
    # The end of a running turn is new to every client, whatever number it has seen.
    wire = NativeWire(turn.public_id, seen if has_ended else 0)
    if start is not None and start.end is not None:
        wire = NativeWire(turn.public_id, seen)
        if not wire.encode(start):
            async with handle:
                return Response(status_code=204)
    return EventStream(handle, wire, idle_interval=settings.comment_interval, start=start)


def history_path(user_id: UserId, conversation_id: ConversationId) -> str:
    """Return the path of a conversation's history."""
    return f"/api/chat/history/{quote(user_id)}?conversation_id={quote(conversation_id)}"


def event_number(last_event_id: str | None, after: str | None = None) -> int:
    """Parse the number of the last event received, from the header or else the query; 0 if there is none.

    Raises:
        RequestProblem: one of them is not a number, even if it is the one that is not used.
    """
    in_query = 0 if after is None else _number("#/query/after", after)
    return _number("#/header/Last-Event-ID", last_event_id) if last_event_id else in_query


def _number(pointer: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise invalid_request(400, pointer, "must be an event number, or 0")
    return int(value)
