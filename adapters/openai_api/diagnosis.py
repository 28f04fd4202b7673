"""Tell the operator why a call failed, without credentials and text of the request."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from adapters.error_translation import ForeignError
from adapters.openai_api.errors import RefusedByService
from adapters.openai_api.redaction import Redactor
from adapters.proxies import BadProxyURL, proxy_for
from application.ports.llm import LLMError
from domain.conversation import Message


class Diagnostics:
    """Completes the diagnosis of errors before they leave the adapter."""

    def __init__(self, *, model: str, base_url: str, api_key: str, max_name_chars: int = 100) -> None:
        self._model = model
        self._base_url = base_url
        self._api_key = api_key
        self._max_name_chars = max_name_chars

    def complete(self, error: LLMError, messages: Sequence[Message], parameters: Mapping[str, Any]) -> None:
        """Set `diagnosis` and `request` of an error of the call that sent these."""
        proxy, redactor = _proxy(self._base_url), self.redactor(messages, parameters.get("stop") or ())
        found, excerpt = {**error.diagnosis}, ""
        if isinstance(cause := error.__cause__, RefusedByService):
            found |= _facts(cause)
            excerpt = redactor.excerpt(cause.refusal.message)
            error.__cause__ = ForeignError(str(cause))
        error.diagnosis = {
            **{name: self._redacted(redactor, value) for name, value in found.items()},
            **({"provider_message": excerpt} if excerpt else {}),
            "host": _host(self._base_url),
            **({"proxy": _host(proxy)} if proxy else {}),
        }
        error.request = {
            "model": self._model,
            "messages": len(messages),
            "prompt_chars": sum(len(message.text) for message in messages),
            "largest_message_chars": max((len(message.text) for message in messages), default=0),
            **{name: value for name, value in parameters.items() if isinstance(value, (int, float))},
        }

    def redactor(self, messages: Sequence[Message], stop: Iterable[str]) -> Redactor:
        """Return a redactor for what the service writes in response to these messages and texts to stop before."""
        secrets = [self._api_key, *_credentials(self._base_url), *_credentials(_proxy(self._base_url))]
        return Redactor([*(message.text for message in messages), *stop], secrets)

    def _redacted(self, redactor: Redactor, value: str | int) -> str | int:
        return value if isinstance(value, int) else redactor.excerpt(value, self._max_name_chars)


def _facts(cause: RefusedByService) -> Mapping[str, str | int]:
    facts, refusal = {**cause.facts}, cause.refusal
    if refusal.status is not None:
        facts.setdefault("http_status", refusal.status)
    named = {
        "provider_code": refusal.code,
        "provider_type": refusal.type,
        "provider_param": ", ".join(refusal.parameters),
    }
    return facts | {name: value for name, value in named.items() if value}


def _host(url: str) -> str:
    """Return host and port without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _proxy(url: str) -> str | None:
    try:
        return proxy_for(url)
    except BadProxyURL:
        return None


def _credentials(url: str | None) -> list[str]:
    """Return the user and the password, also as they are sent in a header, and the values of the query."""
    parts = urlsplit(url or "")
    named = [unquote(part) for part in (parts.username, parts.password) if part]
    encoded = [b64encode(":".join(named).encode()).decode()] if named else []
    return [*named, *encoded, *(value for name, value in parse_qsl(parts.query) if name != "api-version")]
