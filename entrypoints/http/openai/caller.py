"""Whose request it is, and which conversation it belongs to: from the credential, the body and headers of clients."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar
from uuid import uuid4

from orjson import dumps
from starlette.datastructures import Headers

from domain.conversation import MAX_ID_CHARS, ConversationId, UserId
from domain.principal import NOBODY, Action, Principal, authorize
from entrypoints.http.openai.schemas import ChatCompletionRequest
from entrypoints.http.request_problems import invalid_request
from entrypoints.settings import Settings

Id = TypeVar("Id", UserId, ConversationId)

CONVERSATION: Final = "X-Conversation-Id"
TASK: Final = "X-Task"
RETRY_COUNT: Final = "X-Stainless-Retry-Count"
WEBUI_CHAT: Final = "X-OpenWebUI-Chat-Id"
WEBUI_USER: Final = "X-OpenWebUI-User-Id"

_WITHOUT_CONVERSATION: Final = ("temporary:", "local:", "channel:")
"""Prefixes of the ids that Open WebUI gives to chats that it does not keep, and to channels, which are not chats."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for what.

    `conversation_id` is None outside of any conversation. `is_temporary` says that the client wants nothing stored.
    `has_name` says that the request names its user. `shows_all` says that the client sends all that it shows, so that a
    single message is the first one of its conversation. A side call is not part of the conversation, e.g. a client's
    request for a title. `repetition` is the number of the request in a library that repeats requests without a key, or
    None.
    """

    user_id: UserId
    has_name: bool
    conversation_id: ConversationId | None
    is_temporary: bool
    shows_all: bool
    is_side_call: bool
    repetition: int | None


def caller_of(body: ChatCompletionRequest, headers: Headers, principal: Principal, settings: Settings) -> Caller:
    """Find out who asks, and check that the principal may act for this user.

    Raises:
        RequestProblem: An id is invalid, or a header with one occurs twice.
        Forbidden: The principal may not.
    """
    for name in (CONVERSATION, *((WEBUI_CHAT, WEBUI_USER) if settings.v1_open_webui else ())):
        if len(headers.getlist(name)) > 1:  # a proxy and its client may have written one each
            raise invalid_request(400, f"#/header/{name}", "must be sent once")
    user_id = _user(body, headers, principal, settings)
    authorize(principal, Action.USER_DATA, user_id or _nobody(principal))
    from_webui = not headers.get(CONVERSATION) and settings.v1_open_webui and bool(headers.get(WEBUI_CHAT))
    is_task = bool(headers.get(TASK)) or (body.model is not None and body.model == settings.v1_task_model)
    named_by = WEBUI_CHAT if from_webui else CONVERSATION
    is_temporary = headers.get(named_by, "").startswith(_WITHOUT_CONVERSATION)
    repetition = headers.get(RETRY_COUNT, "")
    return Caller(
        user_id or _nobody(principal),
        has_name=user_id is not None,
        conversation_id=None if is_temporary else _conversation(named_by, headers),
        is_temporary=is_temporary,
        shows_all=from_webui or TASK in headers,
        is_side_call=is_task or (from_webui and not body.stream),
        repetition=int(repetition) if re.fullmatch("[0-9]{1,3}", repetition) else None,
    )


def new_conversation(principal: Principal, user_id: UserId, key: str | None) -> ConversationId:
    """Return the id of a conversation for one request: the same one if that is repeated with its idempotency key."""
    if key is None:
        return ConversationId(str(uuid4()))
    return ConversationId(sha256(dumps([principal.name, user_id, key])).hexdigest())


def _user(body: ChatCompletionRequest, headers: Headers, principal: Principal, settings: Settings) -> UserId | None:
    if principal.user_id is not None:
        return principal.user_id
    named = [("#/safety_identifier", body.safety_identifier), ("#/user", body.user)]
    if settings.v1_open_webui:
        named.append((f"#/header/{WEBUI_USER}", headers.get(WEBUI_USER)))
    for pointer, value in named:
        if value:
            return _id(UserId, pointer, value)
    return None


def _nobody(principal: Principal) -> UserId:
    """Return the user of requests that name none. Nothing is remembered about it."""
    return UserId((principal.prefix + NOBODY)[:MAX_ID_CHARS])


def _conversation(name: str, headers: Headers) -> ConversationId | None:
    value = headers.get(name, "")
    return _id(ConversationId, f"#/header/{name}", value) if value else None


def _id(kind: type[Id], pointer: str, value: str) -> Id:
    try:
        return kind(value)
    except ValueError as error:
        raise invalid_request(400, pointer, str(error)) from None
