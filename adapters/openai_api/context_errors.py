"""Recognise the errors of requests that exceed a model's context window, in the words of any service."""

import re
from collections.abc import Iterable
from typing import Final

from adapters.openai_api.refusal import PROMPT_FIELDS, Refusal
from application.ports.llm import LLMContextTooLong

_FIELDS: Final = PROMPT_FIELDS | {
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens"),
    *("input_tokens", "prompt_tokens", "tokens", "n_ctx", "num_ctx", "context", "context_length", "context_window"),
}
"""Fields that a service may name in such an error. One about another field, e.g. `model`, is about its length."""

_CONTEXT_CODE: Final = re.compile(r"context_(length|window|size|overflow)|exceed_context")
_CODE: Final = re.compile(
    rf"{_CONTEXT_CODE.pattern}|max_prompt_tokens|tokens?_limit_(reached|exceeded)"
    r"|(prompt|input|request|string)_(is_)?too_(long|large|many)|(string|array)_above_max|^too_long$"
)

_CONTEXT: Final = re.compile(
    r"context.{0,30}(length|size|window|limit|overflow)|(exceed|larger|too).{0,60}context", re.I
)
_EXCESS: Final = re.compile(
    r"exceed|overflow|too (long|large|big|many|short|small)|larg|longer|greater|more than|max|limit|at most|only|reduce"
    r"|shorten|not enough|surpass|out of|>",
    re.I,
)
"""Words of an error about the size of a context that only mentions it."""

_TEXT: Final = re.compile(
    r"""\b(prompt|inputs?|messages?|conversation|request|sequence)\b[^.;:]{0,40}\btoo\ (long|large|big)\b
    | \b(prompt|inputs?|messages?|conversation|request|sequence)\b[^.;:]{0,60}\bexceed\w*\b[^.;]{0,60}
      \b(tokens?|length|limit|maximum|size)\b
    | \bmax(imum)?\ (prompt|input|sequence)\ (length|size|tokens)
    | \b(model|max|maximum)\ (max\ )?length\ exceeded
    | \b(reduce|shorten)\b[^.;]{0,15}\b(length|size|number)\ of[^.;]{0,15}\b(messages?|prompt|input)
    | range\ of\ input\ length
    | too\ many\ (input\ |prompt\ )?tokens
    | `?(inputs|prompt)`?\ (tokens\ \+|must\ have\ (less|fewer)\ than)
    | max_tokens\ must\ be\ at\ least\ 1,\ got\ -\d         # what the prompt leaves of the window
    | (上下文|输入|提示|prompt|tokens?).{0,20}(超长|超出|超过|过长)
    """,
    re.I | re.X,
)

_OTHER_SUBJECT: Final = re.compile(
    r"""roles?\ must | must\ alternate
    | does\ ?n[o']t\ support\ (tool|function|image|audio|video)
    | maximum\ value\ for\ .?max_(completion_|output_)?tokens     # a limit of the reply alone
    | \b(images?|audio|videos?|files?|tools?|stop\ sequences?)\b.{0,40}(too\ (large|long|big|many)|exceed|at\ most)
    | exceed.{0,40}(time|concurren|number\ of\ (stop|tool|image|choice))
    """,
    re.I | re.X,
)
"""An error about something else, in similar words."""

_THROTTLED: Final = re.compile(
    r"\bper[ -](second|minute|min|hour|day|month)\b|\b[TR]P[MD]\b|rate.?limit|throttl|too many requests|quota"
    r"|\b(wait|try again|retry) (before|in|later|after)\b",
    re.I,
)

_ALONE_TOO_LARGE: Final = re.compile(r"request too large", re.I)
"""A request that exceeds the allowance of a whole minute: waiting does not help, a shorter one does."""

_N: Final = r"(\d{2,9})(?!\d)(?! ?(?:char|byte|item|element|entr|message))"
"""A number of tokens, or of no named unit."""

_PROMPT_AND_LIMIT: Final = re.compile(rf"\b{_N}(?: tokens)?(?: \+ \d+)? ?> ?{_N}\b(?! ?[-+] ?\d)")
_LIMITS: Final = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"context (?:length|size|window)(?: limit)?(?: is| of| allows?|:)?(?: only| at most| exactly)? ?\(?{_N}\b",
        rf"{_N} (?:tokens? )?(?:maximum )?context (?:length|size|window)",
        rf"max(?:imum)? (?:prompt|input|sequence) (?:length|size|tokens) ?(?:is|of|:)? ?\(?{_N}\b",
        rf"tokens? (?:allowed|limit)(?: is| of|:)? ?\(?{_N}\b",
        rf"\blimit(?: is| of|:)? ?{_N}\b",
        rf"max(?:imum)? (?:allowed length \(|length: ?){_N}\b",
        rf"max(?:imum)? size: {_N}\b",
        rf"(?:<=|less than|fewer than|cannot exceed|at most|exceeds? the limit of) {_N}\b",
        rf"\[\d+, ?{_N}\]",
        rf"> ?{_N} ?- ?\d",
    )
)
_PROMPTS: Final = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"\({_N} (?:in|of|for) (?:the |your )?(?:text |input )?(?:messages?|prompt|input)",
        rf"{_N} (?:input|prompt) tokens",
        rf"messages resulted in {_N}\b",
        rf"(?:request|prompt) (?:contains|has) {_N}\b",
        rf"(?<!max )(?<!maximum )(?:prompt|input) (?:length|token count)(?: of| is)? ?\(?{_N}\b",
        rf"current length is {_N}\b",
        rf"given: {_N}\b",
        rf"prompt is too long: {_N}\b",
        rf"keep the first {_N}\b",
        rf"(?:input|prompt|input length) \({_N}(?: tokens)?\)",
        rf"requested: {_N}\b",
        rf"requested {_N}$",
    )
)


def context_error(refusal: Refusal) -> LLMContextTooLong | None:
    """Return the error if `refusal` says that the request is too long, with the numbers that it names."""
    text = re.sub(r"(?<=\d)[,_](?=\d{3}\b)", "", refusal.message)
    throttled = refusal.status == 429 or _THROTTLED.search(text) is not None
    if refusal.status == 413 or (throttled and _ALONE_TOO_LARGE.search(text)):
        return _with_numbers(refusal, text)
    if any(map(_CONTEXT_CODE.search, refusal.codes)):
        return _with_numbers(refusal, text)
    if throttled or not refusal.may_concern(_FIELDS):
        return None
    if any(map(_CODE.search, refusal.codes)) or (refusal.status in (None, 200, 400, 422) and _says_too_long(text)):
        return _with_numbers(refusal, text)
    return None


def _says_too_long(text: str) -> bool:
    if _OTHER_SUBJECT.search(text):
        return False
    return _TEXT.search(text) is not None or (_CONTEXT.search(text) is not None and _EXCESS.search(text) is not None)


def _with_numbers(refusal: Refusal, text: str) -> LLMContextTooLong:
    limit, prompt = _first(_LIMITS, text), _first(_PROMPTS, text)
    if both := _PROMPT_AND_LIMIT.search(text):
        prompt, limit = int(both[1]), int(both[2])
    error = LLMContextTooLong()
    error.limit = _whole(refusal.numbers.get("n_ctx")) or limit
    error.prompt_tokens = _whole(refusal.numbers.get("n_prompt_tokens")) or prompt
    return error


def _first(patterns: Iterable[re.Pattern[str]], text: str) -> int | None:
    return next((int(found[1]) for pattern in patterns if (found := pattern.search(text))), None)


def _whole(number: float | None) -> int | None:
    return int(number) if number is not None and 0 < number < 1e9 else None
