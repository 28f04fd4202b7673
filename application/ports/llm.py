"""Generating replies with a language model."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from domain.conversation import Message, Usage
from domain.errors import ChatError


class LLMError(ChatError):
    """The model gave no reply, or an incomplete one.

    `repeatable`: safe to retry, because the request never reached the model or was rejected before generation. An
    adapter sets it on the error it raises, e.g. if the connection was refused, and never once a reply has begun.
    `attempts` is the number of requests made before this error was raised; the wrapper that retries sets it.
    `diagnosis` tells the operator why: named facts and a redacted excerpt of the service's message, without credentials
    and text of the request. `request` describes the request by its parameters and sizes.
    """

    repeatable: bool = False
    attempts: int = 1
    diagnosis: Mapping[str, str | int] = {}
    request: Mapping[str, str | int | float] = {}


class LLMUnreachable(LLMError):
    code = "upstream_unreachable"
    title = "The model service cannot be reached"
    retryable = True


class LLMNotConnectable(LLMUnreachable):
    """The settings rule a connection out, e.g. by a certificate that is not trusted or a proxy's wrong password."""

    retryable = False


class LLMTimeout(LLMError):
    """No response within the limit. The request may have been billed."""

    code = "upstream_timeout"
    title = "The model service did not respond in time"
    retryable = True


class LLMIdle(LLMError):
    """The response stalled."""

    code = "upstream_idle"
    title = "The model service stopped sending"
    retryable = True


class LLMRateLimited(LLMError):
    code = "upstream_rate_limited"
    title = "The model service is rate limited"
    retryable = True
    repeatable = True


class LLMQuotaExceeded(LLMError):
    """The account has run out of credit, which no waiting changes."""

    code = "upstream_quota"
    title = "The account at the model service has run out of credit"


class LLMAuthFailed(LLMError):
    code = "upstream_auth"
    title = "The model service rejected our credentials"


class LLMFailed(LLMError):
    """The service responded with an error of its own."""

    code = "upstream_error"
    title = "The model service failed"
    retryable = True


class LLMRefused(LLMFailed):
    """The service rejects the request as it is; an identical request would be rejected again."""

    title = "The model service rejected the request"
    retryable = False


class LLMContentRefused(LLMError):
    """The service's policy rejects this message; others are accepted."""

    code = "content_refused"
    title = "The model service refuses to process this message"


class LLMParameterRefused(LLMError):
    """The model rejects a parameter that the client has chosen; `parameter` is its name."""

    code = "unsupported_parameter"
    title = "The model does not accept a parameter of the request"

    def __init__(self, parameter: str | None = None) -> None:
        super().__init__(f"The model does not accept this {parameter}." if parameter else None)
        self.parameter = parameter


class LLMRedirected(LLMFailed):
    """The service responded with a redirect, which is not followed because the credentials would be sent along."""

    title = "The model service sent a redirect, which is not followed"
    retryable = False


class LLMInvalid(LLMError):
    """The response violates the protocol."""

    code = "upstream_invalid"
    title = "The model service sent an invalid response"
    retryable = True


class LLMWrongAPI(LLMInvalid):
    """The response has nothing to do with a chat, e.g. it is an HTML page: the base URL is probably wrong."""

    title = "The model service did not send a reply of a chat model"
    retryable = False


class LLMDisconnected(LLMError):
    code = "upstream_disconnected"
    title = "The connection to the model service broke"
    retryable = True


class LLMTruncated(LLMError):
    """The response broke off: it ended without a finish reason or any other mark of its end."""

    code = "upstream_truncated"
    title = "The model service ended the reply without finishing it"
    retryable = True


class LLMContextTooLong(LLMError):
    """`limit` and `prompt_tokens` are the sizes in tokens that the service named, None if it did not."""

    code = "context_too_long"
    title = "The conversation exceeds the model's context window"

    limit: int | None = None
    prompt_tokens: int | None = None

    @property
    def reply_only(self) -> bool:
        """Whether the prompt alone fits, so that a lower limit of the reply would help."""
        return self.limit is not None and self.prompt_tokens is not None and self.prompt_tokens < self.limit


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """What a client has chosen for a reply. None leaves it to the adapter's settings.

    A parameter that the model rejects is never left out: the call fails with LLMParameterRefused.
    """

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None


AS_CONFIGURED: Final = ReplyOptions()


class Reply(Protocol):
    """A reply that is being streamed.

    Iterating yields the deltas as they arrive: one or more non-empty strings at a time, in order. NUL and lone
    surrogates, which no store accepts, are replaced or left out. Iteration ends only after the model has finished;
    `finish_reason` is set from then on: `stop`, `length`, `content_filter`, `tool_calls`, or `unknown` if the provider
    does not say why the reply ended or uses a word of its own. `notes` are remarks about an unusual reply for the
    operator, without any text of the user; they are complete when iteration ends. An error after a finish reason, with
    no text in between, is such a remark: the reply is complete. `usage` is None until the provider has reported it, and
    can be read even after an error.

    Raises while iterating:
        LLMError: the reply was cut short. Deltas received before stay valid.
        OutputLimit: the service sent a single event larger than the adapter buffers.
    """

    finish_reason: str
    usage: Usage | None
    notes: Sequence[str] = ()

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Sequence[str]]: ...


class LLM(Protocol):
    """Generating replies with a language model."""

    @abstractmethod
    def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AbstractAsyncContextManager[Reply]:
        """Request the reply to `messages`, of at most `max_tokens` tokens if that is less than the adapter's own limit.

        Entering the context waits until the service has accepted the request and is about to stream. Leaving it in
        any way ends the request and releases its connection immediately. An abandoned request may still be
        billed. Several replies may be streamed at a time.

        Timeouts are the adapter's: for connecting (LLMUnreachable), for accepting the request (LLMTimeout) and between
        two deltas (LLMIdle). A cancelled caller gets its cancellation, not an error.

        Raises:
            LLMError: the service cannot be reached, rejects the request, or does not respond with a stream.
        """
        ...
