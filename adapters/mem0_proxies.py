"""What to tell the operator about proxies that the environment names, for both ways to use Mem0.

Mem0's clients leave proxies to httpx, which wraps all errors of proxies in its own exceptions.
"""

from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from adapters.error_translation import exception_chain
from adapters.proxies import CHECK_PROXY, BadProxyURL, proxy_for

PROXY_AUTH_REQUIRED: Final = 407

CAUSES_OF_A_PROXY: Final = frozenset({"refused", "dns", "no route", "connect timeout"})
"""Causes of a failed connection that concern the proxy, if there is one."""

_VARIABLES: Final = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "all": "ALL_PROXY"}


def is_proxied(url: str) -> bool:
    """Whether requests to `url` go through a proxy."""
    try:
        return proxy_for(url) is not None
    except BadProxyURL:
        return True


def unsupported_proxy() -> str | None:
    """Return a sentence about the first proxy that is not an HTTP proxy, or None if there is none.

    httpx reads all of them when a client is built, for any target, and fails for SOCKS unless a package for it is
    installed.
    """
    proxies = getproxies()
    for name, variable in _VARIABLES.items():
        scheme, separator, _ = proxies.get(name, "").partition("://")
        if separator and scheme.lower() not in ("http", "https"):
            kind = "SOCKS proxies" if scheme.lower().startswith("socks") else "Proxies of this kind"
            return f"{kind} are not supported; check {variable}: it must be the URL of an HTTP proxy, or empty."
    return None


def refuses_credentials(error: BaseException) -> bool:
    """Whether a proxy rejected its user or password when it was asked for a tunnel, as to a service with TLS."""
    return any(
        type(link).__name__ == "ProxyError" and str(link).startswith(str(PROXY_AUTH_REQUIRED))
        for link in exception_chain(error)
    )


def credentials_refused(url: str) -> str:
    """Return a sentence about the proxy of `url` that rejected its user or password."""
    try:
        proxy = urlsplit(proxy_for(url) or "")
        address = f" {proxy.hostname}:{proxy.port}" if proxy.port else f" {proxy.hostname}" if proxy.hostname else ""
    except (BadProxyURL, ValueError):
        address = ""
    return f"The proxy{address} refused our credentials (HTTP {PROXY_AUTH_REQUIRED}); {CHECK_PROXY}."
