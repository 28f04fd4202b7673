"""What the OpenAPI document says about these routes, beyond their schemas."""

from collections import defaultdict
from typing import Any, Final

from application.ports.llm import LLMParameterRefused
from domain.conversation import ID_PATTERN
from entrypoints.http.idempotency_key import PARAMETER
from entrypoints.http.openai.caller import CONVERSATION, TASK
from entrypoints.http.openai.errors import client_code, client_status
from entrypoints.http.problem_examples import TURN
from entrypoints.http.responses import BEGIN, REPEATABLE_STREAM, STORE, UPSTREAM, Responses, problems


def _errors(responses: Responses) -> Responses:
    """Return the descriptions of problems as those of errors in the format of OpenAI's API."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for status, response in responses.items():
        for code in response["content"]["application/problem+json"]["examples"]:
            by_status[client_status(code, int(status))].append(client_code(code))
    found: Responses = {}
    for status, codes in by_status.items():
        example = {"message": "What happened, for people.", "type": "…", "param": None, "code": codes[0]}
        found[status] = {
            "description": "Error: " + ", ".join(f"`{code}`" for code in codes),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/OpenAIErrorView"},
                    "example": {"error": example},
                }
            },
        }
    return found


_CHUNK: Final = '{"id":"chatcmpl-…","object":"chat.completion.chunk","created":1800000000,"model":"gpt-3.5-turbo",'

_HEADERS: Final = {
    CONVERSATION: {
        "description": "The conversation; absent if the request belongs to none.",
        "schema": {"type": "string"},
        "example": "holidays",
    },
    "X-Ignored-Fields": {
        "description": "Fields of the request that have had no effect, percent-encoded.",
        "schema": {"type": "string"},
        "example": "tools, presence_penalty",
    },
    "X-Turn-ID": {
        "description": "Id of the turn, as in the native API; absent if nothing is stored.",
        "schema": {"type": "string", "format": "uuid"},
        "example": TURN,
    },
}

_COMPLETION: Final[Responses] = {
    200: {
        "description": (
            "The reply: whole, or with `stream` as server-sent events. The `data` of each is a chunk; "
            "`data: [DONE]` follows the last one. If the reply fails meanwhile, an event with `error` is the last one. "
            "Comment lines may occur at any time."
        ),
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ChatCompletion"}},
            "text/event-stream": {
                "example": (
                    f"data: {_CHUNK}"
                    '"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]}\n\n'
                    f"data: {_CHUNK}"
                    '"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
                    "data: [DONE]\n\n"
                )
            },
        },
        "headers": REPEATABLE_STREAM[200]["headers"] | _HEADERS,
    }
}

COMPLETION_RESPONSES: Final[Responses] = _COMPLETION | _errors(
    problems(
        *BEGIN,
        *UPSTREAM,
        LLMParameterRefused,
        request=(400, 413, 415),
        headers=[(400, "invalid_idempotency_key"), (400, "invalid_request"), (400, "model_not_found")],
    )
)

ERRORS: Final = _errors(problems(*STORE))

PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": CONVERSATION,
        "in": "header",
        "required": False,
        "description": "Conversation of the user in which the message and its reply are stored.",
        "schema": {"type": "string", "pattern": f"^({ID_PATTERN})?$"},
        "example": "holidays",
    },
    {
        "name": TASK,
        "in": "header",
        "required": False,
        "description": "If it is not empty, the request is not part of the conversation, e.g. it asks for a title: "
        "the messages are answered as they are, and nothing is stored. Even if it is empty, it says that the client "
        "sends all earlier messages.",
        "schema": {"type": "string"},
        "example": "title_generation",
    },
    PARAMETER,
]
