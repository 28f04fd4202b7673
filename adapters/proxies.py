"""The proxies that the environment names."""

from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CHECK_PROXY: Final = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"

_PORTS: Final = {"http": 80, "https": 443}


class BadProxyURL(Exception):
    """The environment names a proxy that is not the URL of an HTTP proxy. `scheme` is empty if it is no URL at all."""

    def __init__(self, scheme: str = "") -> None:
        super().__init__()
        self.scheme = scheme

    @property
    def problem(self) -> str:
        """The defect, in a few words."""
        return f"scheme {self.scheme} is not supported" if self.scheme not in ("", *_PORTS) else "not a URL"


def proxy_for(url: str) -> str | None:
    """Return the proxy that `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for `url`.

    aiohttp's own `trust_env` looks at each request, in a thread, knows no `ALL_PROXY`, and refuses to send our
    credentials if `~/.netrc` has others.

    Raises:
        BadProxyURL: It is not the URL of an HTTP proxy.
    """
    target, proxies = urlsplit(url), getproxies()
    host = target.hostname or ""
    if proxy_bypass(host) or proxy_bypass(f"{host}:{target.port or _PORTS.get(target.scheme)}"):
        return None
    named = proxies.get(target.scheme) or proxies.get("all")
    if not named:
        return None
    proxy = named if "://" in named else f"http://{named}"
    try:
        parts = urlsplit(proxy)
        valid = parts.scheme in _PORTS and parts.hostname and parts.port != 0
    except ValueError:
        raise BadProxyURL from None
    if not valid:
        raise BadProxyURL(parts.scheme)
    return proxy
