"""Sending a message and getting the reply, as a stream or whole."""

import anyio
from fastapi import APIRouter, Request, Response

from application.turns.running import RunningTurn
from application.turns.send_message import BegunTurn, NewMessage, SendMessage
from entrypoints.http.dependencies import SendMessageDep, SettingsDep
from entrypoints.http.direct_route import DirectRoute
from entrypoints.http.disconnect import leaving_on_error, unless_gone
from entrypoints.http.errors import RefusedTurn
from entrypoints.http.event_stream import EventStream
from entrypoints.http.json_body import JSONRoute
from entrypoints.http.native.schemas import ChatRequest, SimpleReply
from entrypoints.http.openapi import BEGIN, BODY, STREAM, UPSTREAM, problems

router = APIRouter(prefix="/api/chat", tags=["chat"], route_class=JSONRoute)


async def send_message(body: ChatRequest, request: Request, send: SendMessageDep, settings: SettingsDep) -> Response:
    message = body.to_message(settings.on_disconnect)
    begun = await unless_gone(request.receive, _begin(send, message, settings.header_hold))
    return EventStream(begun.reader, begun.running.turn.id, comment_interval=settings.comment_interval)


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
    ended = await unless_gone(request.receive, _run(send, body.to_message(settings.on_disconnect)))
    if ended.failure:
        raise RefusedTurn(ended.failure, ended.turn.id)
    response.headers["X-Turn-ID"] = ended.turn.id
    return SimpleReply.of(ended.turn)


async def _begin(send: SendMessage, message: NewMessage, hold: float) -> BegunTurn:
    """Begin a turn, and wait for the model to answer, so that a refusal still has a status of its own."""
    begun = await send(message)
    async with leaving_on_error(begun.reader):
        with anyio.move_on_after(hold):
            await begun.running.answered.wait()
        if begun.running.refused:
            raise RefusedTurn(begun.running.refused, begun.running.turn.id)
    return begun


async def _run(send: SendMessage, message: NewMessage) -> RunningTurn:
    """Begin a turn, and wait for its end."""
    begun = await send(message)
    async with begun.reader:
        await begun.running.ended.wait()
    return begun.running
