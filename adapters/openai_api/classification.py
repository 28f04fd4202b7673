"""Tell what a service's refusal means, by its codes first and its words second."""

import re
from typing import Final

from adapters.openai_api.context_errors import context_error
from adapters.openai_api.refusal import Refusal
from application.ports.llm import (
    LLMAuthFailed,
    LLMContentRefused,
    LLMError,
    LLMFailed,
    LLMInvalid,
    LLMNotConnectable,
    LLMQuotaExceeded,
    LLMRateLimited,
    LLMRedirected,
    LLMRefused,
    LLMTimeout,
    LLMWrongAPI,
)

REPEATABLE: Final = frozenset({408, 409, 425, 500, 502, 503, 529})
"""Statuses of requests that were not processed, by convention."""

_TEMPORARY: Final = frozenset({409, 425, 499})
"""Statuses below 500 after which the same request may succeed."""

_PERMANENT: Final = frozenset({501, 505, 510, 511})
"""Statuses from 500 on after which it cannot."""

CHECK_URL: Final = "check OPENAI_BASE_URL, which usually ends in /v1"
CHECK_MODEL: Final = "check OPENAI_MODEL"
CHECK_KEY: Final = "check OPENAI_API_KEY"
NOT_A_CHAT: Final = f"The model's service did not send the reply of a chat: {CHECK_URL}."
CHECK_PROXY: Final = "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"

PROXY_AUTH_REQUIRED: Final = 407
PROXY_REFUSED: Final = f"The proxy refused our credentials: {CHECK_PROXY}."

_NO_CREDIT_CODE: Final = re.compile(
    r"insufficient_(user_)?(quota|balance|credits?|funds)|billing|arrearage|payment_required|exceeded_current_quota"
)
_NO_CREDIT_TEXT: Final = re.compile(
    r"quota.{0,20}(exceeded|exhausted|used up)|(exceeded|exhausted).{0,20}quota"
    r"|insufficient.{0,20}(quota|credit|balance|funds)|out of credit|no credits|billing|余额不足|欠费",
    re.I,
)
_SHORT_TERM: Final = re.compile(
    r"per[ -]?(second|minute|min|hour|day)\b|(retry|try again) (in|after)|rate.?limit", re.I
)

_CONTENT_CODE: Final = re.compile(
    r"content_(filter|policy|blocked|violation)|responsible_ai|data_inspection|moderation|prohibited_content"
    r"|sensitive|flagged"
)
_CONTENT_TEXT: Final = re.compile(
    r"content.?(management.?)?(policy|filter)|content exists risk|flagged|moderation|safety (system|polic"
    r"|filter)|(usage|acceptable use) (polic|guideline)|inappropriate content|considered high risk|sensitive content"
    r"|敏感|不安全",
    re.I,
)
_ABOUT_THE_ACCOUNT: Final = re.compile(r"\b(account|organi[sz]ation|api key|project)\b", re.I)

_AUTH_CODE: Final = re.compile(
    r"(invalid|incorrect|missing|expired)_(api_?key|token|credentials?|authentication)|api_?key_(invalid|expired|missing)"
    r"|authentication|unauthenticated|unauthori[sz]ed|permission|access_denied|no_auth"
)
_AUTH_TEXT: Final = re.compile(
    r"api.?key|access.?key|subscription.?key|credential|authenti|unauthori[sz]ed|not authori[sz]ed|permission"
    r"|(invalid|expired|missing).{0,10}token",
    re.I,
)
_BAD_KEY_TEXT: Final = re.compile(
    r"(invalid|incorrect|expired|missing|no) (access |valid )?api.?key"
    r"|api.?key.{0,20}(invalid|not valid|incorrect|expired|missing|required)|login fail",
    re.I,
)

_RATE_LIMIT_CODE: Final = re.compile(r"rate_limit|too_many_requests|throttl|resource_exhausted|quota_exceeded")
_RATE_LIMIT_TEXT: Final = re.compile(r"rate.?limit|too many requests|throttl", re.I)

_MODEL_CODE: Final = re.compile(r"(model|deployment)_?(not_?(found|exist|available|supported)|unknown)|invalid_model")
_MODEL_TEXT: Final = re.compile(
    r"\b(model|deployment)\b.{0,80}(not (found|exist|available|deployed)|does ?n[o']t exist|unknown|is not a valid)"
    r"|(unknown|invalid|no such|unsupported|access to( the)?) (model|deployment)\b|not a valid model",
    re.I,
)
_PATH_TEXT: Final = re.compile(
    r"unexpected endpoint|(unknown|invalid|unsupported) (url|path|route|endpoint)|no route|cannot post|page not found"
    r"|not found|http request (was sent )?to (an )?https",
    re.I,
)
_REFUSED_CODE: Final = re.compile(
    r"invalid|bad_request|not_found|unsupported|unprocessable|validation|unknown_parameter"
)

_SUCCESS_CODES: Final = frozenset({"ok", "success", "healthy", "running", "up", "200"})
_CLIENT_FAULTS: Final = frozenset({None, 200, 400, 403, 404, 422})


def classify(refusal: Refusal, retry_after: float | None = None) -> LLMError:
    """Return the error that `refusal` means. `retry_after` are the seconds that its headers ask to wait."""
    if refusal.status == PROXY_AUTH_REQUIRED:
        return LLMNotConnectable(PROXY_REFUSED)
    if refusal.status == 401:
        return _with_hint(LLMAuthFailed, refusal, CHECK_KEY)
    if too_long := context_error(refusal):
        return too_long
    if _is_out_of_credit(refusal, retry_after):
        return _with_hint(LLMQuotaExceeded, refusal, "check the plan and credit of the account of OPENAI_API_KEY")
    if _is_about_content(refusal):
        return LLMContentRefused("The model's service refuses to process this message under its content policy.")
    if refusal.status in _CLIENT_FAULTS and _names_the_model(refusal):
        return _with_hint(LLMRefused, refusal, CHECK_MODEL)
    if _is_about_credentials(refusal):
        return _with_hint(LLMAuthFailed, refusal, CHECK_KEY)
    if _is_rate_limit(refusal):
        return _with_hint(LLMRateLimited, refusal, "")
    return _by_status(refusal)


def _is_out_of_credit(refusal: Refusal, retry_after: float | None) -> bool:
    if refusal.status == 402 or _any(_NO_CREDIT_CODE, refusal):
        return True
    if refusal.status not in (None, 200, 400, 403, 429) or retry_after is not None or refusal.retry_delays:
        return False
    return bool(_NO_CREDIT_TEXT.search(refusal.message)) and not _SHORT_TERM.search(refusal.message)


def _is_about_content(refusal: Refusal) -> bool:
    if refusal.status not in (*_CLIENT_FAULTS, 451, 500):
        return False
    if "flagged_input" in refusal.keys or _any(_CONTENT_CODE, refusal):
        return True
    text = refusal.message
    return refusal.status != 500 and bool(_CONTENT_TEXT.search(text)) and not _ABOUT_THE_ACCOUNT.search(text)


def _names_the_model(refusal: Refusal) -> bool:
    return _any(_MODEL_CODE, refusal) or "model" in refusal.parameters or bool(_MODEL_TEXT.search(refusal.message))


def _is_about_credentials(refusal: Refusal) -> bool:
    if _any(_AUTH_CODE, refusal):
        return True
    if refusal.status == 403:
        return bool(_AUTH_TEXT.search(refusal.message)) and not refusal.is_page
    return refusal.status in (None, 200, 400) and bool(_BAD_KEY_TEXT.search(refusal.message))


def _is_rate_limit(refusal: Refusal) -> bool:
    if refusal.status == 429 or _any(_RATE_LIMIT_CODE, refusal):
        return True
    return refusal.status in (None, 200) and bool(_RATE_LIMIT_TEXT.search(refusal.message))


def _by_status(refusal: Refusal) -> LLMError:
    status = refusal.status
    if status in (404, 405) or (status in (None, 200, 400) and _PATH_TEXT.search(refusal.message)):
        return _with_hint(LLMRefused, refusal, CHECK_URL)
    if status == 200 and refusal.codes and refusal.codes <= _SUCCESS_CODES:
        return LLMWrongAPI(NOT_A_CHAT)
    if status is None or status == 200:
        is_bare = status == 200 and not refusal.codes and "error" not in refusal.keys
        kind = LLMRefused if _any(_REFUSED_CODE, refusal) else LLMFailed
        return _with_hint(kind, refusal, CHECK_URL if is_bare else "")
    if status < 300:
        return _with_hint(LLMInvalid, refusal, "")
    if status < 400:
        return _with_hint(LLMRedirected, refusal, "check the scheme, host and path of OPENAI_BASE_URL")
    if status in (408, 504, 524):
        return _with_hint(LLMTimeout, refusal, "")
    if status in _TEMPORARY or (status >= 500 and status not in _PERMANENT):
        return _with_hint(LLMFailed, refusal, "")
    return _with_hint(LLMRefused, refusal, _setting_of(refusal))


def _setting_of(refusal: Refusal) -> str:
    names = {"temperature": "OPENAI_TEMPERATURE", "max_tokens": "OPENAI_MAX_TOKENS"}
    named = (*refusal.parameters, *re.findall(r"\w+", refusal.message))
    setting = next((names[name] for name in named if name in names), None)
    return f"check {setting}" if setting else "the log of this chatbot has its reason"


def _any(pattern: re.Pattern[str], refusal: Refusal) -> bool:
    return any(map(pattern.search, refusal.codes))


def _with_hint(kind: type[LLMError], refusal: Refusal, hint: str) -> LLMError:
    said = f"The model's service answered {refusal.status}" if refusal.status else "The model's service sent an error"
    return kind(f"{said}: {hint}." if hint else f"{said}.")
