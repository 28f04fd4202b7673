"""`smart-chatbot chat`: chat with a running service in the terminal."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from domain.api_key import PREFIX


class TerminalChat:
    """Reads messages line by line and prints each reply as it streams. Ctrl-C stops a reply, Ctrl-D ends the chat.

    `credential` is an API key or a token. Without `user`, messages are from the token's user, or else from `terminal`.
    """

    def __init__(self, url: str, user: str | None, conversation: str, credential: str | None) -> None:
        self._url = urlsplit(url if "//" in url else f"http://{url}")
        self._body = {"conversation_id": conversation}
        self._headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        if user is None and (credential is None or credential.startswith(PREFIX)):  # a token names its user itself
            user = "terminal"
        if user is not None:
            self._body["user_id"] = user

    def run(self) -> int:
        """Chat until the input ends; return the exit status, 1 if the service cannot be reached."""
        print("Ctrl-C stops a reply, Ctrl-D ends the chat.")
        while True:
            try:
                message = input("\nyou> ")
            except (EOFError, KeyboardInterrupt):
                print()
                return 0
            if message.strip():
                try:
                    self._exchange(message)
                except (OSError, http.client.HTTPException) as error:
                    print(f"Cannot reach {self._url.geturl()}: {error}")
                    return 1

    def _exchange(self, message: str) -> None:
        body = json.dumps(self._body | {"message": message})
        turn_id = None
        connection = self._connect()
        try:
            connection.request("POST", "/api/chat", body, self._headers | {"Content-Type": "application/json"})
            response = connection.getresponse()
            turn_id = response.headers["X-Turn-ID"]
            if response.status == 200:
                self._print_reply(response)
            else:
                print(_problem(response))
        except KeyboardInterrupt:
            if turn_id is not None:  # without an id, closing the connection stops the turn
                self._stop(turn_id)
            print(" [stopped]")
        finally:
            connection.close()

    def _print_reply(self, response: http.client.HTTPResponse) -> None:
        for event in _events(response):
            print(event["content"], end="", flush=True)
            if "error" in event:
                print(f"\n[{event['error']['detail']}]", end="")
            elif "finish_reason" in event:
                print(f" [{event['finish_reason']}]", end="")
        print()

    def _stop(self, turn_id: str) -> None:
        connection = self._connect()
        connection.request("POST", f"/api/chat/turns/{turn_id}/stop", headers=self._headers)
        connection.getresponse().read()
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.netloc)


def _problem(response: http.client.HTTPResponse) -> str:
    try:
        return str(json.loads(response.read())["detail"])
    except (ValueError, KeyError, TypeError):  # the response is not from this service, e.g. from a proxy
        return f"HTTP {response.status}"


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON data of each server-sent event before `[DONE]`."""
    for line in response:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line.removeprefix(b"data: "))
