"""Tell responses of an HTTP proxy from those of the service behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from adapters.openai_api.refusal import Refusal
from adapters.proxies import CHECK_PROXY, BadProxyURL, proxy_for

_FORBIDDEN: Final = 403
"""Status of a proxy that does not allow the target. Those of targets that it cannot reach are from 500 on."""


@dataclass(frozen=True)
class ProxyAnswer:
    """A response that is, or may be, that of a proxy.

    Args:
        detail: The sentence for the client.
        cause_detail: For the operator. It may quote a header.
    """

    detail: str
    cause_detail: str


def proxy_answer(refusal: Refusal, headers: Mapping[str, str], url: str) -> ProxyAnswer | None:
    """Return what to tell if a proxy may have sent `refusal`, in response to a request to `url`; None otherwise.

    Proxies forward requests of `http` and respond in place of a service that they cannot reach, mostly with a page.
    """
    status = refusal.status or 0
    if not (status == _FORBIDDEN or status >= 500) or not _is_forwarded(url):
        return None
    if error := _named_error(headers):
        return ProxyAnswer(
            f"The proxy answered {status} instead of the model's service: {CHECK_PROXY}.",
            f"answered instead of the service: {error}",
        )
    if refusal.keys:
        return None  # JSON, i.e. an API
    return ProxyAnswer(
        f"The model's service, or the proxy before it, answered {status}: {CHECK_PROXY}.",
        "may have answered instead of the service",
    )


def _is_forwarded(url: str) -> bool:
    try:
        return url.startswith("http:") and proxy_for(url) is not None
    except BadProxyURL:
        return False


def _named_error(headers: Mapping[str, str]) -> str:
    status = headers.get("proxy-status", "")
    return headers.get("x-squid-error", "") or (status if "error=" in status else "")
