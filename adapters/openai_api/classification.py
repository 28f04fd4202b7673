"""Tell what a service's refusal means, by its codes first and its words second."""

import re
from typing import Final

from adapters.openai_api import refusal_words as words
from adapters.openai_api.context_errors import context_error
from adapters.openai_api.refusal import PROMPT_FIELDS, Refusal
from adapters.proxies import CHECK_PROXY
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

_REJECTED: Final = frozenset({400, 403, 404, 422})
"""Statuses of requests that were not processed, either. The same request is usually rejected again."""

_TEMPORARY: Final = frozenset({409, 425, 499})
"""Statuses below 500 after which the same request may succeed."""

_PERMANENT: Final = frozenset({501, 505, 510, 511})
"""Statuses from 500 on after which it cannot."""

CHECK_URL: Final = "check OPENAI_BASE_URL, which usually ends in /v1"
CHECK_SCHEME: Final = "check whether OPENAI_BASE_URL is http or https"
CHECK_MODEL: Final = "check OPENAI_MODEL"
CHECK_DEPLOYMENT: Final = "check the deployment in OPENAI_BASE_URL, or in OPENAI_MODEL if that URL names none"
CHECK_KEY: Final = "check OPENAI_API_KEY"
CHECK_CREDIT: Final = "check the plan and credit of the account of OPENAI_API_KEY"
CHECK_ACCOUNT: Final = "check the settings of the account of OPENAI_API_KEY, e.g. its privacy and allowed providers"
SEE_LOG: Final = "the log of this chatbot has its reason"
NOT_A_CHAT: Final = f"The model's service did not send the reply of a chat: {CHECK_URL}."

PROXY_AUTH_REQUIRED: Final = 407
PROXY_REFUSED: Final = f"The proxy refused our credentials: {CHECK_PROXY}."

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
        return _with_hint(LLMQuotaExceeded, refusal, CHECK_CREDIT)
    if _is_about_content(refusal):
        return LLMContentRefused("The model's service refuses to process this message under its content policy.")
    if refusal.status in _CLIENT_FAULTS and _names_the_model(refusal):
        return _with_hint(LLMRefused, refusal, CHECK_DEPLOYMENT if _names_a_deployment(refusal) else CHECK_MODEL)
    if _is_about_credentials(refusal):
        return _with_hint(LLMAuthFailed, refusal, CHECK_KEY)
    if _is_rate_limit(refusal):
        return _with_hint(LLMRateLimited, refusal, "")
    return _by_status(refusal)


def is_repeatable(refusal: Refusal) -> bool:
    """Whether the service did not process a request that failed so, and may process the same one later."""
    return refusal.status in REPEATABLE or (refusal.status in _REJECTED and _is_transient(refusal))


def _is_out_of_credit(refusal: Refusal, retry_after: float | None) -> bool:
    if refusal.status == 402 or _any(words.NO_CREDIT_CODE, refusal):
        return True
    if refusal.status not in (None, 200, 400, 403, 429) or retry_after is not None or refusal.retry_delays:
        return False
    return bool(words.NO_CREDIT_TEXT.search(refusal.message)) and not words.SHORT_TERM.search(refusal.message)


def _is_about_content(refusal: Refusal) -> bool:
    if refusal.status not in (*_CLIENT_FAULTS, 451, 500):
        return False
    policy_codes = filter(words.CONTENT_CODE.search, refusal.codes)
    if "flagged_input" in refusal.keys or any(not words.PARAMETER_CODE.search(code) for code in policy_codes):
        return True
    if refusal.status == 500 or refusal.is_page or not refusal.may_concern(PROMPT_FIELDS):
        return False
    text = refusal.message
    is_about_other = (
        words.ABOUT_THE_ACCOUNT.search(text) or words.PARAMETER_TEXT.search(text) or words.ACCOUNT_TEXT.search(text)
    )
    return bool(words.CONTENT_TEXT.search(text)) and not is_about_other


def _names_the_model(refusal: Refusal) -> bool:
    if _any(words.MODEL_CODE, refusal) or "model" in refusal.named_fields:
        return True
    return bool(words.MODEL_TEXT.search(refusal.message)) and not _is_transient(refusal)


def _names_a_deployment(refusal: Refusal) -> bool:
    """Whether Azure does not find a deployment, which its URLs have in place of a model."""
    return _any(words.DEPLOYMENT_CODE, refusal) or bool(words.DEPLOYMENT_TEXT.search(refusal.message))


def _is_transient(refusal: Refusal) -> bool:
    return bool(words.TRANSIENT_TEXT.search(refusal.message))


def _is_about_credentials(refusal: Refusal) -> bool:
    if _any(words.AUTH_CODE, refusal):
        return True
    if refusal.status == 403:
        return bool(words.AUTH_TEXT.search(refusal.message)) and not refusal.is_page
    return refusal.status in (None, 200, 400) and bool(words.BAD_KEY_TEXT.search(refusal.message))


def _is_rate_limit(refusal: Refusal) -> bool:
    if refusal.status == 429 or _any(words.RATE_LIMIT_CODE, refusal):
        return True
    return refusal.status in (None, 200) and bool(words.RATE_LIMIT_TEXT.search(refusal.message))


def _by_status(refusal: Refusal) -> LLMError:
    status, text = refusal.status, refusal.message
    if status in (None, 200, *_REJECTED) and words.SCHEME_TEXT.search(text):
        return _with_hint(LLMRefused, refusal, CHECK_SCHEME)
    if status in (403, 404) and words.ACCOUNT_TEXT.search(text):
        return _with_hint(LLMRefused, refusal, CHECK_ACCOUNT)
    if status in _REJECTED and _is_transient(refusal):
        return _with_hint(LLMFailed, refusal, "")
    if status in (404, 405) and (status == 405 or not _has_reason(refusal)):
        return _with_hint(LLMRefused, refusal, CHECK_URL)
    if status in (None, 200, 400) and words.PATH_TEXT.search(text):
        return _with_hint(LLMRefused, refusal, CHECK_URL)
    if status == 200 and refusal.codes and refusal.codes <= _SUCCESS_CODES:
        return LLMWrongAPI(NOT_A_CHAT)
    if status is None or status == 200:
        is_bare = status == 200 and not refusal.codes and "error" not in refusal.keys
        kind = LLMRefused if _any(words.REFUSED_CODE, refusal) and not _is_transient(refusal) else LLMFailed
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


def _has_reason(refusal: Refusal) -> bool:
    """Whether an API explains a 404. Otherwise the path is unknown to what responded, which may be no API at all."""
    return "error" in refusal.keys and bool(refusal.message) and not words.PATH_TEXT.search(refusal.message)


_SETTINGS: Final = {
    name: f"OPENAI_{name.upper()}"
    for name in ("temperature", "max_tokens", "top_p", "stop", "seed", "reasoning_effort")
}
_ORDINARY_WORDS: Final = frozenset({"stop", "seed"})
"""Parameters that a text may name without meaning them."""


def _setting_of(refusal: Refusal) -> str:
    words_in_text = (word for word in re.findall(r"\w+", refusal.message) if word not in _ORDINARY_WORDS)
    setting = next((_SETTINGS[name] for name in (*refusal.parameters, *words_in_text) if name in _SETTINGS), None)
    return f"check {setting}" if setting else SEE_LOG


def _any(pattern: re.Pattern[str], refusal: Refusal) -> bool:
    return any(map(pattern.search, refusal.codes))


def _with_hint(kind: type[LLMError], refusal: Refusal, hint: str) -> LLMError:
    said = f"The model's service answered {refusal.status}" if refusal.status else "The model's service sent an error"
    return kind(f"{said}: {hint}." if hint else f"{said}.")
