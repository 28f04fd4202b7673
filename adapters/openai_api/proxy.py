"""The proxy on the way to a service, as the environment names it."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, spoken to over TLS where its URL says `https`."""

    url: SplitResult

    @classmethod
    def on_the_way_to(cls, target: SplitResult) -> Self | None:
        """What `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say, in either case."""
        name = target.hostname or ""
        if proxy_bypass(name) or proxy_bypass(f"{name}:{target.port or PORTS.get(target.scheme)}"):
            return None
        proxies = getproxies()
        named = proxies.get(target.scheme) or proxies.get("all")
        return cls(urlsplit(named if "://" in named else f"http://{named}")) if named else None

    @property
    def authorization(self) -> bytes:
        """The line of a request's head that says who we are; empty where the proxy does not ask."""
        if self.url.username is None:
            return b""
        user, password = unquote(self.url.username), unquote(self.url.password or "")
        return b"proxy-authorization: Basic %b\r\n" % b64encode(f"{user}:{password}".encode())
