"""ContextWindow: what fits the model, learned from its refusals and from the usage that it reports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from application.ports.llm import LLMContextTooLong
from application.ports.turn_observer import ContextWindowExceeded, ReplyLimitLowered, TurnObserver
from domain.context import assemble, prompt_tokens, required_tokens
from domain.conversation import Exchange, Message, Usage
from domain.errors import ContextTooLong
from domain.tokens import TokenEstimator, count_bytes

TOLERANCE: Final = 2
"""Factor by which the estimate of a message may exceed the budget before it is rejected without asking the model: some
texts have half as many tokens as estimated."""

SLACK: Final = 1.1
"""Safety factor of estimates. A prompt that is made to fit still fits if it has 10 % more tokens than estimated."""

MIN_REPLY_TOKENS: Final = 16
"""The lowest reply limit that is sent. Services refuse lower ones."""

MIN_WINDOW: Final = 256
"""Smallest window, in tokens, that is taken from an error of the service. A smaller number means something else."""


GROWTH: Final = 1.5
"""Factor by which a learned window is widened on trial."""


@dataclass(frozen=True, slots=True)
class PromptParts:
    """Everything that a prompt may contain, and the limit of the reply if it is lower than the setting.

    `facts` come best first. `lead` is text of the user right before the message, which may be left out. `continued` is
    the beginning of the reply.
    """

    instructions: str
    latest_first: Sequence[Exchange]
    message: str
    facts: Sequence[str] = ()
    lead: str = ""
    continued: str = ""
    max_tokens: int | None = None

    @property
    def message_with_lead(self) -> str:
        return f"{self.lead}\n\n{self.message}" if self.lead else self.message


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request to the model. `max_tokens` limits the reply; None leaves it at the setting."""

    messages: Sequence[Message]
    max_tokens: int | None = None
    repeated: bool = False
    """A larger attempt of the same turn was refused."""
    guessed: bool = False
    """The reply limit was halved because the service did not say what was too long."""
    misfit: int = 0
    """Estimated size of the first attempt, reply included, if that was refused although it was made to fit."""


class ContextWindow:
    """Makes prompts that fit one model. Shared by all turns of the process, so that later ones start with what fits.

    A prompt and the reply share the window. Up to a quarter of it is reserved for the reply; if `max_tokens` is more,
    the limit of the reply is lowered to what the prompt leaves.

    Args:
        context_tokens: Budget of a prompt, whatever the model accepts.
        max_tokens: Limit of a reply, unless an attempt lowers it.
        grow_after: Replies in a narrow window after which a wider one is tried, since a refusal may have been an
            exception, e.g. of another model behind the same name. Doubled each time that the model refuses it.
    """

    def __init__(self, context_tokens: int, max_tokens: int, observer: TurnObserver, *, grow_after: int = 50) -> None:
        self.estimate = TokenEstimator()
        self._context_tokens = context_tokens
        self._max_tokens = max_tokens
        self._observer = observer
        self._window: int | None = None
        """Size that fits, in tokens; None until a request was refused."""
        self._stated = False
        """The service named the size."""
        self._grow_after = grow_after
        self._narrow_replies = 0
        """Replies to requests of more than half the window, since it was learned or widened."""
        self._on_trial = False
        """The window was widened, and has not been refused since."""
        self._largest_prompt = 0
        self._largest_request = 0
        self._reported: set[type] = set()
        self._of_models: dict[str, ContextWindow] = {}

    def of(self, model: str | None) -> "ContextWindow":
        """Return the window of a model that a client has chosen; None is the model of the settings."""
        if model is None:
            return self
        if model not in self._of_models:
            self._of_models[model] = ContextWindow(
                self._context_tokens, self._max_tokens, self._observer, grow_after=self._grow_after
            )
        return self._of_models[model]

    def admit(self, instructions: str, message: str) -> None:
        """Check a message before its turn begins.

        Raises:
            ContextTooLong: Instructions and message alone exceed the budget, even if they are greatly overestimated.
        """
        limit = self._context_tokens * TOLERANCE
        if required_tokens(instructions, message, count_bytes) <= limit:
            return  # the usual case, without an estimate
        required = required_tokens(instructions, message)
        # What was learned may count a long prompt that the service adds by itself, so both must exceed the limit.
        if required > limit and required_tokens(instructions, message, self.estimate) > limit:
            raise ContextTooLong(
                f"Instructions and message take about {required} tokens; the limit is {self._context_tokens}."
            )

    def first(self, parts: PromptParts) -> Attempt:
        """Return the attempt to begin a turn with, whose message was admitted."""
        return self._within(parts, self._prompt_budget())

    def smaller(self, parts: PromptParts, refused: Attempt, error: LLMContextTooLong) -> Attempt | None:
        """Return the attempt after `refused`, or None if no smaller one can help.

        Either its messages have half the size at most, or they are the same and the limit of the reply is lower.
        """
        prompt = prompt_tokens(refused.messages, self.estimate)
        max_tokens = refused.max_tokens or self._max_tokens
        request = prompt + max_tokens
        made_to_fit = not refused.repeated and self._window is not None and request <= self._window
        misfit = request if made_to_fit else refused.misfit
        self._learn_limit(error, request)
        alone = assemble(parts.instructions, (), parts.message, 0, (), self.estimate, parts.continued)
        shortest = refused.messages == alone
        left = _left_for_reply(error, prompt, max_tokens)
        if left is not None and (shortest or left >= self._reserve(error.limit or left)):
            attempt = self._lowered(parts, refused.messages, left)
        elif not shortest:
            attempt = self._within(parts, min(prompt // 2, self._prompt_budget()))
            if attempt.messages == refused.messages:  # the estimate of a whole may exceed that of its parts
                attempt = self._within(parts, 0)
        elif not refused.guessed and _may_be_the_reply(error, prompt, max_tokens):
            attempt = replace(self._lowered(parts, refused.messages, max_tokens // 2), guessed=True)
        else:
            return None
        return replace(attempt, repeated=True, misfit=misfit)

    def accepted(self, attempt: Attempt, usage: Usage | None) -> None:
        """Learn from a reply that is complete, and from the usage reported with it."""
        texts = [message.text for message in attempt.messages]
        reported = usage is not None and self.estimate.learn(texts, usage.prompt_tokens)
        prompt = usage.prompt_tokens if usage and reported else prompt_tokens(attempt.messages, self.estimate)
        request = prompt + (attempt.max_tokens or self._max_tokens)
        self._largest_prompt = max(self._largest_prompt, prompt)
        self._largest_request = max(self._largest_request, request)
        if self._window is None:
            if attempt.repeated:
                self._window = self._largest_request
        elif attempt.misfit and self._on_trial:
            self._narrow(self._largest_request)
            self._stated = False
        elif attempt.misfit and not reported:  # a reported count corrects the estimate instead
            self._window, self._stated = min(self._window, (request + attempt.misfit) // 2), False
        elif prompt > self._window or not self._stated:
            self._window, self._stated = max(self._window, request), False
        if self._window is not None and not attempt.repeated and request > self._window // 2:
            self._widen(self._window)

    def _widen(self, window: int) -> None:
        self._narrow_replies += 1
        if self._narrow_replies >= self._grow_after:
            self._window, self._on_trial, self._narrow_replies = int(window * GROWTH), True, 0

    def _narrow(self, window: int) -> None:
        if self._on_trial:
            self._on_trial = False
            self._grow_after *= 2
        self._window, self._narrow_replies = window, 0

    def _prompt_budget(self) -> int:
        if self._window is None:
            return self._context_tokens
        return min(self._context_tokens, int((self._window - self._reserve(self._window)) / SLACK))

    def _reserve(self, window: int) -> int:
        """Return the tokens of a window that are kept free for the reply."""
        return min(self._max_tokens, window // 4)

    def _within(self, parts: PromptParts, budget: int) -> Attempt:
        """Return an attempt whose prompt is within the budget, or as short as possible."""
        message = parts.message_with_lead
        if parts.lead and required_tokens(parts.instructions, message + parts.continued, self.estimate) > budget:
            message = parts.message
        messages = assemble(
            parts.instructions, parts.latest_first, message, budget, parts.facts, self.estimate, parts.continued
        )
        if self._window is None:
            return Attempt(messages, parts.max_tokens)
        left = self._window - int(prompt_tokens(messages, self.estimate) * SLACK)
        return self._lowered(parts, messages, max(left, self._reserve(self._window)))

    def _learn_limit(self, error: LLMContextTooLong, request: int) -> None:
        plausible = error.limit is not None and error.limit >= max(MIN_WINDOW, self._largest_prompt)
        if error.limit is not None and plausible and (self._window is None or error.limit < self._window):
            self._narrow(error.limit)
            self._stated = True
        self._report(ContextWindowExceeded(request, error.limit, self._context_tokens))

    def _lowered(self, parts: PromptParts, messages: Sequence[Message], max_tokens: int) -> Attempt:
        """Return an attempt with this limit of the reply, unless the limit is lower anyway."""
        if max_tokens >= (parts.max_tokens or self._max_tokens):
            return Attempt(messages, parts.max_tokens)
        self._report(ReplyLimitLowered(self._max_tokens, max_tokens))
        return Attempt(messages, max_tokens)

    def _report(self, event: ContextWindowExceeded | ReplyLimitLowered) -> None:
        if type(event) not in self._reported:
            self._reported.add(type(event))
            self._observer.observe(event)


def _left_for_reply(error: LLMContextTooLong, prompt: int, max_tokens: int) -> int | None:
    """Return the reply limit that fits beside a prompt that fits by itself; None if it does not, or is unknown."""
    if error.limit is None:
        return None
    counted = int(prompt * SLACK) if error.prompt_tokens is None else error.prompt_tokens
    left = error.limit - counted
    return left if MIN_REPLY_TOKENS <= left < max_tokens else None


def _may_be_the_reply(error: LLMContextTooLong, prompt: int, max_tokens: int) -> bool:
    """Whether a lower limit of the reply may help a shortest prompt, as far as the service tells."""
    if error.limit is not None and error.prompt_tokens is not None and not error.reply_only:
        return False
    fits = error.limit is not None and prompt * TOLERANCE + max_tokens <= error.limit
    return not fits and max_tokens >= 2 * MIN_REPLY_TOKENS and max_tokens * 4 > prompt
