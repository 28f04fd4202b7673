"""Sending a message and getting the reply, as a stream or whole."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from application.ports.live_turns import Batch
from application.turns.handle import TurnHandle
from application.turns.new_message import NewMessage
from application.turns.send_message import SendMessage
from domain.errors import Failure, StreamExpired
from entrypoints.http.dependencies import PrincipalDep, SendMessageDep, SettingsDep
from entrypoints.http.disconnect import closing_on_error, unless_disconnected
from entrypoints.http.errors import RefusedTurn
from entrypoints.http.event_stream import EventStream
from entrypoints.http.idempotency_key import PARAMETER, REPLAYED, idempotency_key
from entrypoints.http.native.schemas.chat import ChatRequest, SimpleReply
from entrypoints.http.native.turns import event_number, history_path
from entrypoints.http.native.wire import NativeWire
from entrypoints.http.policies import Policy, requires
from entrypoints.http.responses import BEGIN, BODY, REPEATABLE, REPEATABLE_STREAM, UPSTREAM, problems
from entrypoints.http.routing import DirectRoute, SecuredRoute

router = APIRouter(prefix="/api/chat", tags=["chat"], route_class=SecuredRoute)

_BAD_KEY: Final = (400, "invalid_idempotency_key")
_LAST_EVENT_ID: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": (
        "With an `Idempotency-Key` or a `turn_id` that was sent before: number of the last event received."
    ),
    "schema": {"type": "string"},
    "example": "17",
}


@requires(Policy.OWNER_IN_BODY)
async def send_message(
    body: ChatRequest, request: Request, principal: PrincipalDep, send: SendMessageDep, settings: SettingsDep
) -> Response:
    """Store the message, ask the model, and stream its reply as server-sent events.

    The reply is stored when the event with `done: true` arrives, unless that has an `error`. If the connection breaks,
    rejoin with `GET /api/chat/turns/{turn_id}/stream`, or send the message again with the same `Idempotency-Key`.
    """
    key = idempotency_key(request)
    is_repeatable = key is not None or body.turn_id is not None
    seen = event_number(request.headers.get("last-event-id")) if is_repeatable else 0
    message = body.to_message(principal, settings.on_disconnect, key, seen)
    handle, start = await unless_disconnected(request.receive, _begin(send, message, settings.header_hold))
    # The end is sent even if the client has received all other events: it repeats the request to learn the end.
    wire = NativeWire(handle.turn.public_id)
    response = EventStream(handle, wire, idle_interval=settings.comment_interval, start=start)
    response.headers.update(_headers(handle))
    return response


router.add_api_route(
    "",
    send_message,
    methods=["POST"],
    summary="Send a message, stream the reply",
    response_class=Response,
    responses=REPEATABLE_STREAM
    | problems(*BEGIN, *UPSTREAM, StreamExpired, request=BODY, headers=[_BAD_KEY, (400, "invalid_request")]),
    route_class_override=DirectRoute,
    openapi_extra={"parameters": [PARAMETER, _LAST_EVENT_ID]},
)


@router.post(
    "/simple",
    summary="Send a message, get the whole reply",
    response_model_exclude_none=True,
    responses=REPEATABLE | problems(*BEGIN, *UPSTREAM, request=BODY, headers=[_BAD_KEY]),
    openapi_extra={"parameters": [PARAMETER]},
)
@requires(Policy.OWNER_IN_BODY)
async def send_message_simple(
    body: ChatRequest,
    request: Request,
    response: Response,
    principal: PrincipalDep,
    send: SendMessageDep,
    settings: SettingsDep,
) -> SimpleReply:
    """Store the message, ask the model, and respond when its reply is complete and stored.

    Proxies often cut such a request off after a minute. For long replies, use `POST /api/chat`.
    """
    message = body.to_message(principal, settings.on_disconnect, idempotency_key(request))
    handle, reply = await unless_disconnected(request.receive, _complete(send, message))
    response.headers["X-Turn-ID"] = handle.turn.public_id
    response.headers.update(_headers(handle))
    return reply


async def _begin(send: SendMessage, message: NewMessage, header_hold: float) -> tuple[TurnHandle, Batch | None]:
    """Begin a turn, and wait up to `header_hold` seconds for its first event.

    Until the model accepts the request, a failure can still be answered with its own status.
    """
    try:
        handle = await send(message)
    except StreamExpired as expired:
        history = history_path(message.user_id, message.conversation_id)
        raise RefusedTurn(Failure.of(expired), None, history) from expired
    async with closing_on_error(handle):
        start = await handle.next(header_hold)
        if start is not None and start.end is not None and start.end.failure is not None and not start.accepted:
            raise RefusedTurn(start.end.failure, handle.turn.public_id, headers=_headers(handle))
    return handle, start


async def _complete(send: SendMessage, message: NewMessage) -> tuple[TurnHandle, SimpleReply]:
    """Begin a turn, and wait for its end."""
    async with await send(message) as handle:
        reply, end = await handle.read_to_end()
    if end.failure is not None:
        raise RefusedTurn(end.failure, handle.turn.public_id, headers=_headers(handle))
    return handle, SimpleReply.of(handle.turn.completed(reply, end.finish_reason or "stop", end.usage))


def _headers(handle: TurnHandle) -> dict[str, str]:
    return {REPLAYED: "true"} if handle.is_repeated else {}
