"""The parameters that a model accepts, as learned from its refusals."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import structlog

from adapters.openai_api.refusal import Refusal
from domain.conversation import Message, Role

LIMITS: Final = ("max_tokens", "max_completion_tokens")
"""Names of the limit of a reply."""

_NUMBER: Final = re.compile(r"(?<![\w.-])\d{1,9}(?![\w-]|\.\d)")
_ABOUT_SIZE: Final = re.compile(
    r"too (large|high|big|long)|at most|maximum|no more than|(less|greater) than|between|range|exceed|above|[<>]|limit",
    re.I,
)
_BELOW: Final = re.compile(r"(?:(?:less|lower|smaller) than|(?<!<)<(?!=)) ?(\d{1,9})(?!\d)", re.I)
_ABOUT_SYSTEM_ROLE: Final = re.compile(
    r"\b(system|developer)\b.{0,40}\b(roles?|messages?|prompts?|instructions?)\b|\broles?\b.{0,60}\b(system|developer)\b"
    r"|roles must alternate|developer instruction",
    re.I | re.S,
)
_ROLE: Final = re.compile(r"messages\W*0?\W*role")

MIN_LIMIT: Final = 16
"""Lowest limit of a reply that is believed, in tokens. A lower number in a refusal is about something else."""

MAX_FORMS: Final = 12
"""Forms of a request per call: more than there are parameters to refuse, so that no service can keep us asking."""


_OPTIONAL: Final = ("temperature", "top_p", "stop", "seed", "reasoning_effort")
"""Parameters that are sent as they are, or not at all if the model rejects them."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The form of a request that a model accepts.

    `max_tokens` is the limit of the reply, which is sent as `limit_name`. None is not sent.
    """

    temperature: float | None
    max_tokens: int
    limit_name: str | None = "max_tokens"
    usage: bool = True
    system_role: bool = True
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    reasoning_effort: str | None = None

    def parameters(self, max_tokens: int | None = None) -> dict[str, Any]:
        """Return the parameters, with the limit of the reply lowered to `max_tokens`."""
        given = {name: getattr(self, name) for name in _OPTIONAL}
        parameters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.limit_name is not None:
            parameters[self.limit_name] = self.max_tokens if max_tokens is None else min(self.max_tokens, max_tokens)
        if self.usage:
            parameters["stream_options"] = {"include_usage": True}
        return parameters

    def prompt(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Return the messages to send. Empty instructions are left out."""
        prompt = [
            {"role": message.role.value, "content": message.text}
            for message in messages
            if message.text or message.role is not Role.SYSTEM
        ]
        if self.system_role or len(prompt) < 2 or prompt[0]["role"] != Role.SYSTEM.value:
            return prompt
        instructions, first, *others = prompt
        return [{"role": first["role"], "content": f"{instructions['content']}\n\n{first['content']}"}, *others]

    def without(self, name: str, refusal: Refusal, value: Any) -> "Accepted":
        """Return a form without `name` as it was sent, with `value`: with a lower value, another name, or none."""
        if name in _OPTIONAL:
            return replace(self, **dict[str, Any]({name: None}))
        if name == "stream_options":
            return replace(self, usage=False)
        if name == "role":
            return replace(self, system_role=False)
        allowed = _allowed(refusal, value)
        if allowed is not None:
            return replace(self, max_tokens=allowed)
        return replace(self, limit_name="max_completion_tokens" if name == "max_tokens" else None)


class Parameters:
    """What a model accepts, learned over the lifetime of this object.

    Some models only accept `max_completion_tokens`, some no temperature or system message, and some servers do not know
    `stream_options`. Older servers silently ignore the newer names, so the only reliable source is the refusal itself.
    """

    def __init__(self, configured: Accepted) -> None:
        self.accepted = configured

    def learn(self, before: Accepted, after: Accepted, *, has_choices: bool = False) -> None:
        """Remember the form of a request that was accepted when the one `before` was refused. Logged once.

        Only the difference counts: concurrent calls may have learned something else. With `has_choices`, the request
        also had parameters that its client has chosen. Some services refuse one because of another, e.g. `temperature`
        with `top_p`, so what was left out then is still sent in other requests.
        """
        kept = _OPTIONAL if has_choices else ()
        learned = {
            name: value for name, value in asdict(after).items() if getattr(before, name) != value and name not in kept
        }
        accepted = replace(self.accepted, **learned)
        if accepted != self.accepted:
            self.accepted = accepted
            structlog.get_logger().warning("model parameters adapted", **learned)


def adapted(accepted: Accepted, refusal: Refusal, sent: Mapping[str, Any], *, has_system: bool) -> Accepted | None:
    """Return the form to try after `refusal` of a request with the parameters `sent`; None if it is about others."""
    if refusal.status not in (400, 422):
        return None
    name = _rejected(refusal, sent, has_system=has_system and accepted.system_role)
    return accepted.without(name, refusal, sent.get(name)) if name else None


def refused_choice(refusal: Refusal, sent: Mapping[str, Any], chosen: Collection[str]) -> str | None:
    """Return the name of the parameter that was refused if it is one that a client has `chosen`; otherwise None."""
    if refusal.status not in (400, 422) or not chosen:
        return None
    name = _rejected(refusal, sent, has_system=False)
    return name if name in chosen else None


def _rejected(refusal: Refusal, sent: Mapping[str, Any], *, has_system: bool) -> str | None:
    """Return the parameter that is named by a field or, if there is none, in the text; `role` for the system role."""
    about_role = _ABOUT_SYSTEM_ROLE.search(refusal.message) is not None
    others = False
    for path in refusal.parameters:
        names = re.split(r"[.\[\]/]+", path.strip("/$"))
        if known := next((name for name in names if name in sent), None):
            return known
        if has_system and (_ROLE.search(path) or (about_role and names[0] in ("messages", "role", "system"))):
            return "role"
        others |= names[0] not in ("", "body", "request")
    if others:
        return None  # it is about a field that cannot be left out
    words = re.findall(r"\w+", refusal.message)
    if has_system and about_role:
        return "role"
    return next((word for word in words if word in sent), None)


def _allowed(refusal: Refusal, sent: int) -> int | None:
    """Return the largest limit of a reply that the refusal allows; None if it is not about its size."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", refusal.message)
    named = [int(refusal.numbers[key]) for key in ("le", "maximum") if MIN_LIMIT <= refusal.numbers.get(key, 0) < sent]
    if named:
        return max(named)
    if not _ABOUT_SIZE.search(text):
        return None
    below = {int(number) for number in _BELOW.findall(text)}
    numbers = {int(number) for number in _NUMBER.findall(text)} - {refusal.status}
    allowed = (number - 1 if number in below else number for number in numbers)
    return max((number for number in allowed if MIN_LIMIT <= number < sent), default=None)
