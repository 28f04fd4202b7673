"""Sending a message and getting the reply, as a stream or whole."""

from fastapi import APIRouter, Request, Response

from application.ports.live_turns import Batch
from application.turns.handle import TurnHandle
from application.turns.send_message import NewMessage, SendMessage
from domain.conversation import Turn
from entrypoints.http.dependencies import SendMessageDep, SettingsDep
from entrypoints.http.disconnect import closing_on_error, unless_disconnected
from entrypoints.http.errors import RefusedTurn
from entrypoints.http.event_stream import EventStream
from entrypoints.http.native.schemas import ChatRequest, SimpleReply
from entrypoints.http.native.wire import NativeWire
from entrypoints.http.openapi import BEGIN, BODY, STREAM, UPSTREAM, problems
from entrypoints.http.routing import DirectRoute, JSONRoute

router = APIRouter(prefix="/api/chat", tags=["chat"], route_class=JSONRoute)


async def send_message(body: ChatRequest, request: Request, send: SendMessageDep, settings: SettingsDep) -> Response:
    message = body.to_message(settings.on_disconnect)
    handle, start = await unless_disconnected(request.receive, _begin(send, message, settings.header_hold))
    return EventStream(handle, NativeWire(handle.turn.id), idle_interval=settings.comment_interval, start=start)


router.add_api_route(
    "",
    send_message,
    methods=["POST"],
    summary="Send a message, stream the reply",
    response_class=Response,
    responses=STREAM | problems(*BEGIN, *UPSTREAM, request=BODY),
    route_class_override=DirectRoute,
)


@router.post(
    "/simple",
    summary="Send a message, get the whole reply",
    response_model_exclude_none=True,
    responses=problems(*BEGIN, *UPSTREAM, request=BODY),
)
async def send_message_simple(
    body: ChatRequest, request: Request, response: Response, send: SendMessageDep, settings: SettingsDep
) -> SimpleReply:
    turn = await unless_disconnected(request.receive, _complete(send, body.to_message(settings.on_disconnect)))
    response.headers["X-Turn-ID"] = turn.id
    return SimpleReply.of(turn)


async def _begin(send: SendMessage, message: NewMessage, header_hold: float) -> tuple[TurnHandle, Batch | None]:
    """Begin a turn, and wait up to `header_hold` seconds for its first event.

    Until the model accepts the request, a failure can still be answered with its own status.
    """
    handle = await send(message)
    async with closing_on_error(handle):
        start = await handle.next(header_hold)
        if start is not None and start.end is not None and start.end.failure is not None and not start.accepted:
            raise RefusedTurn(start.end.failure, handle.turn.id)
    return handle, start


async def _complete(send: SendMessage, message: NewMessage) -> Turn:
    """Begin a turn, and wait for its end."""
    async with await send(message) as handle:
        reply, end = await handle.read_to_end()
    if end.failure is not None:
        raise RefusedTurn(end.failure, handle.turn.id)
    return handle.turn.completed(reply, end.finish_reason or "stop", end.usage)
