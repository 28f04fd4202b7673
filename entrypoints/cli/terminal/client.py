"""The client of the terminal chat: requests to a running service, and errors that say what to do."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from entrypoints.configuration.urls import is_web_url
from entrypoints.program import program

CONNECT_TIMEOUT: Final = 10.0
IDLE_TIMEOUT: Final = 300.0
"""Seconds for a connection, and between two pieces of a response. A service sends comments meanwhile."""

_OPTIONS: Final = {"#/user_id: ": "--user ", "#/conversation_id: ": "--conversation "}
"""The options whose values a problem may point at."""


class ServiceError(Exception):
    """A request failed. The message tells a person what to do."""


class Unreachable(ServiceError):
    """There is no service of this kind at the URL."""


class Reply:
    """A reply that streams in as `lines`. `failure` and `note` are set when `texts` has ended."""

    def __init__(self, turn_id: str | None, lines: Iterable[bytes]) -> None:
        self.turn_id = turn_id
        self.failure: str | None = None
        self.note: str | None = None
        self._lines = lines

    def texts(self) -> Iterator[str]:
        """Yield the pieces of the reply.

        Raises:
            ServiceError: The connection broke before the end.
        """
        ended = False
        for line in self._lines:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            yield str(event["content"])
            if event["done"]:
                ended = True
                self.failure = event["error"]["detail"] if "error" in event else None
                self.note = event.get("finish_reason")
        if not ended:
            raise ServiceError("The connection broke before the end of the reply.")


class ServiceClient:
    """Sends requests to the service at `url`, which may have a path, with a key or a token."""

    def __init__(self, url: str, credential: str | None) -> None:
        """Raise ValueError if `url` is not one of a service."""
        url = url if "//" in url else f"http://{url}"
        if not is_web_url(url):
            raise ValueError("must be an http or https URL")
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError(
                "must not contain a user, which other users of this machine can see: use an API key or a token"
            )
        if parts.query or parts.fragment:
            raise ValueError("must not have a query or a fragment")
        self.url = url.rstrip("/")
        self._netloc = parts.netloc
        self._host = parts.hostname
        self._secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {credential}"} if credential else {}

    def check(self) -> None:
        """Raise Unreachable unless there is a service at the URL."""
        with self._response("GET", "/livez"):
            pass

    def get(self, path: str, *ids: str, **query: str | int) -> Any:
        """Return what the service responds at a path, whose `{}` are replaced by `ids`."""
        filled = path.format(*(quote(part, safe="") for part in ids))
        with self._response("GET", f"{filled}?{urlencode(query)}") as response:
            return json.loads(self._read(response))

    def stop(self, turn_id: str) -> None:
        """Stop a turn."""
        with self._response("POST", f"/api/chat/turns/{turn_id}/stop") as response:
            self._read(response)

    @contextmanager
    def send(self, message: Mapping[str, str]) -> Iterator[Reply]:
        """Send a message; the reply can be read in the block. If it is left early, the service stops the reply."""
        body = json.dumps({"on_disconnect": "cancel", **message})
        with self._response("POST", "/api/chat", body, {"Content-Type": "application/json"}) as response:
            yield Reply(response.headers["X-Turn-ID"], self._lines(response))

    @contextmanager
    def _response(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._netloc, timeout=CONNECT_TIMEOUT)
        try:
            with self._errors_explained():
                connection.connect()
                connection.sock.settimeout(IDLE_TIMEOUT)
                connection.request(method, self._path + path, body, {**self._headers, **(headers or {})})
                response = connection.getresponse()
            if response.status != 200:
                raise self._problem(response)
            yield response
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        with self._errors_explained():
            return response.read()

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while True:
            with self._errors_explained():
                line = response.readline()
            if not line:
                return
            yield line

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise self._explained(error) from error

    def _problem(self, response: http.client.HTTPResponse) -> ServiceError:
        try:
            problem = json.loads(self._read(response))
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, KeyError, TypeError):  # from a proxy, or another service
            code, detail = "", ""
        if not detail or code == "not_found":
            return Unreachable(
                f"There is no such service at {self.url} (HTTP {response.status}): check --url, to which the path "
                "belongs under which a proxy serves it."
            )
        if code == "unauthenticated":
            detail += " Set SMART_CHATBOT_KEY, or name a file with --key-file."
        elif code == "forbidden":
            detail += " Name another user with --user."
        for pointer, option in _OPTIONS.items():
            detail = detail.replace(pointer, option)
        return ServiceError(detail)

    def _explained(self, error: Exception) -> ServiceError:
        match error:
            case ConnectionRefusedError():
                cause = (
                    f"connection refused. Start the service with `{program()} serve`, or name its address with --url."
                )
            case socket.gaierror():
                cause = f"the host {self._host} is not known. Check --url."
            case ssl.SSLCertVerificationError():
                cause = "its certificate is not trusted. Check --url, or name its authority in SSL_CERT_FILE."
            case ssl.SSLError():
                cause = "the TLS connection failed. Check whether --url is http or https."
            case TimeoutError():
                cause = "it does not respond. Check --url."
            case http.client.HTTPException():
                cause = "the connection broke, or it does not speak HTTP. Check --url."
            case _:
                cause = f"{getattr(error, 'strerror', None) or type(error).__name__}. Check --url."
        return Unreachable(f"Cannot reach {self.url}: {cause}")
