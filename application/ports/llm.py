"""For generating replies."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from domain.conversation import Message
from domain.errors import ChatError


class LLMError(ChatError):
    """The model gave no reply, or not a whole one.

    `repeatable` says that the call certainly did not reach the model's work, or was refused by it, so that
    repeating it costs nothing twice. `attempts` is how often the model was asked before this was raised.
    """

    repeatable: bool = False
    attempts: int = 1


class LLMUnreachable(LLMError):
    code = "upstream_unreachable"
    title = "The model's service can not be reached"
    retryable = True


class LLMTimeout(LLMError):
    """No answer within the limit; the call may have been billed."""

    code = "upstream_timeout"
    title = "The model's service did not answer in time"
    retryable = True


class LLMIdle(LLMError):
    """An answer that fell silent."""

    code = "upstream_idle"
    title = "The model's service fell silent"
    retryable = True


class LLMRateLimited(LLMError):
    code = "upstream_rate_limited"
    title = "The model's service is at its limit"
    retryable = True
    repeatable = True


class LLMAuthFailed(LLMError):
    code = "upstream_auth"
    title = "The model's service refused our credentials"


class LLMFailed(LLMError):
    """The service answered with an error of its own."""

    code = "upstream_error"
    title = "The model's service failed"
    retryable = True


class LLMRefused(LLMFailed):
    """The service refuses the request as we put it; the same again would fare no better."""

    title = "The model's service refused the request"
    retryable = False


class LLMRedirected(LLMFailed):
    """The service sent us elsewhere; refused, since the credentials would go along."""

    title = "The model's service sent a redirect, which is refused"
    retryable = False


class LLMInvalid(LLMError):
    """An answer that does not follow the protocol."""

    code = "upstream_invalid"
    title = "The model's service sent something unreadable"
    retryable = True


class LLMDisconnected(LLMError):
    code = "upstream_disconnected"
    title = "The connection to the model's service broke"
    retryable = True


class LLMTruncated(LLMError):
    """The answer ended without saying why."""

    code = "upstream_truncated"
    title = "The model's service ended the reply without finishing it"
    retryable = True


class LLMContextTooLong(LLMError):
    code = "context_too_long"
    title = "The conversation does not fit the model's context"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the provider counts them."""

    prompt_tokens: int
    completion_tokens: int


class Reply(Protocol):
    """An answered call: the texts as they come.

    Iterating gives what has gathered, one or more non-empty texts at a time, in order, free of NUL and of lone
    surrogates. It ends only when the model has said why it stopped; `finish_reason` is set from then on.

    Raises while iterating:
        LLMError: whatever cut the reply short. What came before stays valid.
        OutputLimit: the service sent a line longer than any reply needs.
    """

    finish_reason: str
    usage: Usage | None

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Sequence[str]]: ...


class LLM(Protocol):
    """For generating replies."""

    @abstractmethod
    def reply(self, messages: Sequence[Message]) -> AbstractAsyncContextManager[Reply]:
        """Ask for the reply to `messages`.

        Entering waits until the service has answered and is about to stream. Leaving, for whatever reason, ends the
        call and frees its connection at once. Does not promise that an abandoned call is not billed.

        Raises:
            LLMError: the service can not be reached, refuses, or answers with something else than a stream.
        """
        ...
