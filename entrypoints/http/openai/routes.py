"""OpenAI's Chat Completions API: a conversation by the rules of ADR 44, and the list of models."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from orjson import dumps

from application.ports.live_turns import Batch, End
from application.ports.llm import ReplyOptions
from application.turns.handle import TurnHandle
from application.turns.new_message import NewMessage
from application.turns.reply_request import ReplyRequest
from domain.conversation import ConversationId, Turn
from domain.principal import Principal
from entrypoints.http.dependencies import (
    AnswerUnstoredDep,
    NowDep,
    PrincipalDep,
    SendMessageDep,
    SettingsDep,
    StopTurnWhenLeftDep,
    UptimeDep,
)
from entrypoints.http.disconnect import closing_on_error, unless_disconnected
from entrypoints.http.errors import RefusedTurn
from entrypoints.http.event_stream import EventStream
from entrypoints.http.idempotency_key import REPLAYED, idempotency_key
from entrypoints.http.openai.caller import CONVERSATION, Caller, caller_of, new_conversation
from entrypoints.http.openai.documentation import COMPLETION_RESPONSES, ERRORS, PARAMETERS
from entrypoints.http.openai.parameters import (
    digest_of,
    limit_of,
    model_name,
    models,
    note_ignored_fields,
    options_of,
)
from entrypoints.http.openai.prompt import Prompt, prompt_of
from entrypoints.http.openai.schemas import ChatCompletionRequest, ModelsView, ModelView
from entrypoints.http.openai.wire import OpenAIWire, completion
from entrypoints.http.policies import Policy, requires
from entrypoints.http.request_problems import invalid_request
from entrypoints.http.routing import DirectRoute, SecuredRoute
from entrypoints.settings import Settings

PREFIX: Final = "/v1"

router = APIRouter(prefix=PREFIX, tags=["openai"], route_class=SecuredRoute)


class ConversationRoute(DirectRoute):
    """A route whose bodies hold a whole conversation, and fields that only other services know."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fields = None  # the endpoint names ignored fields itself, and rejects none

    def body_limit(self, settings: Settings) -> int:
        return settings.v1_max_body_bytes


@requires(Policy.OWNER_IN_REQUEST)
async def create_chat_completion(
    body: ChatCompletionRequest,
    request: Request,
    principal: PrincipalDep,
    send: SendMessageDep,
    answer: AnswerUnstoredDep,
    stop_when_left: StopTurnWhenLeftDep,
    settings: SettingsDep,
) -> Response:
    """Answer the last message, with the conversation as the client sends it.

    With `X-Conversation-Id` the message and its reply are stored as a turn of that conversation, which the native API
    shows, too. Without one nothing is stored.
    """
    sent: dict[str, Any] = await request.json()
    caller = caller_of(body, request.headers, principal, settings)
    prompt, options = prompt_of(body.messages), options_of(body, settings)
    key = idempotency_key(request)
    note_ignored_fields(request.scope, sent, body, principal, settings)
    conversation_id = _stored_in(caller, prompt, principal, key, settings)
    is_stored = conversation_id is not None
    reply = _reply_request(body, caller, prompt, options, settings, is_stored=is_stored)
    headers: dict[str, str] = {}
    on_begin = None
    if conversation_id is None:
        beginning = answer(caller.user_id, prompt.message, reply)
    else:
        headers[CONVERSATION] = conversation_id
        message = _message(caller, conversation_id, prompt, reply, key, principal, sent, settings)
        if message.repetition is not None and settings.on_disconnect == "cancel":
            on_begin = stop_when_left
        beginning = send(message)
    model = model_name(body, settings)
    if not body.stream:
        handle, text, end = await unless_disconnected(request.receive, _complete(beginning, headers, is_stored))
        return Response(dumps(completion(handle.turn, model, text, end)), 200, headers, "application/json")
    handle, start = await unless_disconnected(
        request.receive, _begin(beginning, headers, is_stored, settings.header_hold, on_begin)
    )
    include_usage = body.stream_options is not None and body.stream_options.include_usage is True
    wire = OpenAIWire(handle.turn, model, headers, include_usage=include_usage)
    return EventStream(handle, wire, idle_interval=settings.comment_interval, start=start)


router.add_api_route(
    "/chat/completions",
    create_chat_completion,
    methods=["POST"],
    summary="Create a chat completion",
    response_class=Response,
    responses=COMPLETION_RESPONSES,
    route_class_override=ConversationRoute,
    openapi_extra={"parameters": PARAMETERS},
)


@router.get("/models", summary="List the models", responses=ERRORS)
@requires(Policy.OWNER_IN_REQUEST)
async def list_models(settings: SettingsDep, now: NowDep, uptime: UptimeDep) -> ModelsView:
    """Return the models that a client may choose, the default one first."""
    started_at = int(now().timestamp() - uptime)
    return ModelsView(
        object="list",
        data=[
            ModelView(id=name, object="model", created=started_at, owned_by=settings.app_name)
            for name in models(settings)
        ],
    )


def _stored_in(
    caller: Caller, prompt: Prompt, principal: Principal, key: str | None, settings: Settings
) -> ConversationId | None:
    """Return the conversation in which the message and its reply are stored; None if they are not."""
    if caller.is_side_call or prompt.continued:
        return None
    if caller.conversation_id is None and settings.v1_store_all and not caller.is_temporary:
        return new_conversation(principal, caller.user_id, key)
    return caller.conversation_id


def _reply_request(
    body: ChatCompletionRequest,
    caller: Caller,
    prompt: Prompt,
    options: ReplyOptions,
    settings: Settings,
    *,
    is_stored: bool,
) -> ReplyRequest:
    """Return how the reply is generated.

    The context is the conversation as sent. A single message may be the latest of a stored conversation, though: unless
    the client is known to send all that it shows, the context is then the stored one.

    Raises:
        RequestProblem: The system messages are too long.
    """
    shows_all = not is_stored or caller.shows_all or bool(prompt.resent or prompt.exchanges)
    return ReplyRequest(
        latest_first=prompt.exchanges[::-1] if shows_all else None,
        system=_system(prompt, settings),
        as_instructed=not caller.is_side_call,
        lead=prompt.lead,
        continued=prompt.continued,
        max_tokens=limit_of(body, settings),
        options=options,
    )


def _message(
    caller: Caller,
    conversation_id: ConversationId,
    prompt: Prompt,
    reply: ReplyRequest,
    key: str | None,
    principal: Principal,
    sent: dict[str, Any],
    settings: Settings,
) -> NewMessage:
    # A conversation that the service has named is unknown to a later request, unless that has the same key.
    repetition = caller.repetition if key is None and caller.conversation_id is not None else None
    is_repeatable = key is not None or repetition is not None
    return NewMessage(
        caller.user_id,
        conversation_id,
        prompt.message,
        # A library that repeats requests does so after a time-out before the response, but not after a stop.
        keep_running=is_repeatable or settings.on_disconnect == "continue",
        use_memory=caller.has_name,
        key=key,
        principal=principal,
        reply=reply,
        digest=digest_of(sent) if is_repeatable else "",
        resent=None if reply.latest_first is None else prompt.resent,
        repetition=repetition,
    )


def _system(prompt: Prompt, settings: Settings) -> str:
    """Return the client's system messages, if they count.

    Raises:
        RequestProblem: They are too long.
    """
    if settings.v1_system_messages == "drop":
        return ""
    limit = settings.max_message_chars
    if len(prompt.system) > limit:
        raise invalid_request(400, "#/messages", f"the system messages must not exceed {limit} characters together")
    return prompt.system


async def _begin(
    beginning: Awaitable[TurnHandle],
    headers: dict[str, str],
    is_stored: bool,
    hold: float,
    on_begin: Callable[[Turn], Awaitable[None]] | None,
) -> tuple[TurnHandle, Batch | None]:
    """Begin a turn, and wait up to `hold` seconds for its first event; until then, a failure has its own status.

    `on_begin` is called right before the response begins, if the turn is running.
    """
    handle = await beginning
    async with closing_on_error(handle):
        _describe(handle, headers, is_stored)
        start = await handle.next(hold)
        if start is not None and start.end is not None and start.end.failure is not None and not start.accepted:
            raise RefusedTurn(start.end.failure, handle.turn.public_id if is_stored else None, headers=headers)
        if on_begin is not None and (start is None or start.end is None):
            await on_begin(handle.turn)
    return handle, start


async def _complete(
    beginning: Awaitable[TurnHandle], headers: dict[str, str], is_stored: bool
) -> tuple[TurnHandle, str, End]:
    """Begin a turn, and wait for its end."""
    async with await beginning as handle:
        _describe(handle, headers, is_stored)
        text, end = await handle.read_to_end()
    if end.failure is not None:
        raise RefusedTurn(end.failure, handle.turn.public_id if is_stored else None, headers=headers)
    return handle, text, end


def _describe(handle: TurnHandle, headers: dict[str, str], is_stored: bool) -> None:
    if is_stored:
        headers["X-Turn-ID"] = handle.turn.public_id
    if handle.is_repeated:
        headers[REPLAYED] = "true"
