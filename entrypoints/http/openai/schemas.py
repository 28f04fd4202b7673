"""Requests and responses of OpenAI's Chat Completions API, as far as they mean something here."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema

from domain.conversation import ID_PATTERN

MAX_STOPS: Final = 4
"""Stop sequences that OpenAI's API accepts."""

MAX_STOP_CHARS: Final = 1_000
"""Maximum length of a stop sequence. The model gets them whatever they cost, and errors are compared with them."""

MAX_MESSAGES: Final = 20_000
"""Messages of a request. Only the latest can be part of a prompt, but all have to be read."""

SYSTEM: Final = frozenset({"system", "developer"})
"""Roles of instructions."""

_TEXT_PARTS: Final = frozenset({"text", "refusal"})


def _joined(content: Any) -> Any:
    """Return the text of a message, whose content may be parts of text, or absent."""
    if not isinstance(content, list):
        return "" if content is None else content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if isinstance(kind, str) and kind in _TEXT_PARTS else None
        if not isinstance(text, str):
            raise ValueError("must be a text, or parts of the type text")
        texts.append(text)
    return "".join(texts)


def _role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise ValueError("messages of tools are not supported, since this service offers the model no tools")
    return role


def _tool_choice(choice: Any) -> Any:
    if choice not in ("none", "auto"):
        raise ValueError("must be none or auto, since this service offers the model no tools")
    return choice


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_CONTENT: Final = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
        {"type": "null"},
    ],
    "examples": ["Hello, how are you today?"],
}


_STOP: Final = {
    "anyOf": [
        {"type": "string", "maxLength": MAX_STOP_CHARS},
        {"items": {"type": "string", "maxLength": MAX_STOP_CHARS}, "type": "array", "maxItems": MAX_STOPS},
        {"type": "null"},
    ]
}

_Text = Annotated[str, Field(min_length=0)]
"""A text. Pydantic rejects lone surrogates, which can be neither stored nor sent, only if the length is limited."""


def _whole(value: Any) -> Any:
    """Return an integer for a number like 5.0, which is one by JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Limit = Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole)]
_Seed = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1), BeforeValidator(_whole)]
_Number = Annotated[float, Strict()]
_Flag = Annotated[bool, Strict()]
"""Values that are not converted: OpenAI's API rejects `"1"` and `true` as numbers, too."""

_Stop = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
_ToolChoice = Annotated[Literal["none", "auto"], BeforeValidator(_tool_choice)]

_Name = Annotated[str, Field(json_schema_extra={"pattern": f"^({ID_PATTERN})?$"})]


class ChatMessage(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_role)] = Field(
        description="Who wrote it. `system` and `developer` follow the operator's instructions.", examples=["user"]
    )
    content: Annotated[_Text, BeforeValidator(_joined), WithJsonSchema(_CONTENT)] = Field(
        "", description="Its text, or a list of parts of the type `text`."
    )


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    include_usage: _Flag | None = Field(
        None, description="Send a last chunk with the number of tokens, before `[DONE]`.", examples=[True]
    )


class ResponseFormat(BaseModel):
    """The format of the reply."""

    type: Literal["text"] = Field(description="Only `text` is supported.", examples=["text"])


class ChatCompletionRequest(BaseModel):
    """A message with the conversation before it. Further fields are ignored, and named in `X-Ignored-Fields`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    messages: list[ChatMessage] = Field(
        description="The conversation, oldest message first. The user's last one is answered.",
        min_length=1,
        max_length=MAX_MESSAGES,
        fail_fast=True,
    )
    model: str | None = Field(
        None, description="One of `GET /v1/models`; the first of them if absent.", examples=["gpt-3.5-turbo"]
    )
    stream: _Flag | None = Field(None, description="Stream the reply as server-sent events.", examples=[True])
    stream_options: StreamOptions | None = Field(None, description="Options of the stream.")
    temperature: _Number | None = Field(None, ge=0, le=2, description="Sampling temperature.", examples=[0.7])
    top_p: _Number | None = Field(None, ge=0, le=1, description="Nucleus sampling.", examples=[0.9])
    max_tokens: _Limit | None = Field(
        None, description="Limit of the reply, in tokens. The operator's limit holds in any case.", examples=[500]
    )
    max_completion_tokens: _Limit | None = Field(None, description="The same as `max_tokens`.", examples=[500])
    stop: Annotated[
        Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_listed), WithJsonSchema(_STOP)
    ] = Field(None, description="Text before which the reply ends, or up to four of them.", examples=["END"])
    seed: _Seed | None = Field(None, description="Makes replies largely reproducible.", examples=[7])
    user: _Name | None = Field(
        None, description="Id of the user, unless the credential is a user's token.", examples=["user123"]
    )
    safety_identifier: _Name | None = Field(
        None, description="Id of the user; it counts instead of `user`.", examples=["user123"]
    )
    n: Literal[1] | None = Field(None, description="Number of replies: 1.", examples=[1])
    tools: list[Any] | None = Field(None, description="Ignored: the reply is always text.", examples=[[]])
    tool_choice: _ToolChoice | None = Field(
        None, description="`none` or `auto`, since there are no tools.", examples=["auto"]
    )
    functions: list[Any] | None = Field(None, description="Ignored, like `tools`.", examples=[[]])
    function_call: _ToolChoice | None = Field(None, description="As `tool_choice`.", examples=["auto"])
    logprobs: Literal[False] | None = Field(None, description="Not available.", examples=[False])
    response_format: ResponseFormat | None = Field(None, description="Only text.")
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = Field(
        None, description='Only `["text"]`.', examples=[["text"]]
    )


class _Choice(BaseModel):
    index: Literal[0] = Field(description="Always 0: there is one reply.", examples=[0])
    logprobs: None = Field(description="Always null.", examples=[None])
    finish_reason: Literal["stop", "length", "content_filter"] = Field(
        description="Why the model stopped.", examples=["stop"]
    )


class CompletionMessage(BaseModel):
    """The reply."""

    role: Literal["assistant"] = Field(description="Always `assistant`.", examples=["assistant"])
    content: str = Field(description="The text of the reply.", examples=["Hello! I'm doing well."])
    refusal: None = Field(description="Always null.", examples=[None])


class CompletionChoice(_Choice):
    """A reply and why it ended."""

    message: CompletionMessage = Field(description="The reply.")


class CompletionUsage(BaseModel):
    """Tokens of the prompt and of the reply; estimated if the model's service reports none."""

    prompt_tokens: int = Field(description="Tokens of the prompt.", examples=[31])
    completion_tokens: int = Field(description="Tokens of the reply.", examples=[9])
    total_tokens: int = Field(description="The sum.", examples=[40])


class ChatCompletion(BaseModel):
    """A whole reply."""

    id: str = Field(
        description="`chatcmpl-` and the id of the turn.", examples=["chatcmpl-0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"]
    )
    object: Literal["chat.completion"] = Field(description="Kind of the object.", examples=["chat.completion"])
    created: int = Field(description="When the turn began, in seconds since 1970.", examples=[1800000000])
    model: str = Field(description="The model, as requested.", examples=["gpt-3.5-turbo"])
    choices: list[CompletionChoice] = Field(description="One reply.")
    usage: CompletionUsage | None = Field(description="Tokens of the prompt and of the reply.")


class ModelView(BaseModel):
    """A model that may be chosen."""

    id: str = Field(description="Its name.", examples=["gpt-3.5-turbo"])
    object: Literal["model"] = Field(description="Kind of the object.", examples=["model"])
    created: int = Field(description="When the service started, in seconds since 1970.", examples=[1800000000])
    owned_by: str = Field(description="The name of the service.", examples=["Smart Chatbot"])


class ModelsView(BaseModel):
    """The models that may be chosen, the default one first."""

    object: Literal["list"] = Field(description="Kind of the object.", examples=["list"])
    data: list[ModelView] = Field(description="The models.")


class ErrorView(BaseModel):
    """What went wrong."""

    message: str = Field(
        description="What happened, for people. Never quotes the request.", examples=["messages: field required"]
    )
    type: str = Field(description="Kind of the error.", examples=["invalid_request_error"])
    param: str | None = Field(description="The field of the request that is to blame.", examples=["messages"])
    code: str = Field(description="Stable, machine-readable identifier of the error.", examples=["invalid_request"])


class OpenAIErrorView(BaseModel):
    """An error in the format of OpenAI's API."""

    error: ErrorView = Field(description="What went wrong.")
