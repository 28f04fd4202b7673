"""`smart-chatbot chat`: chat with a running service in the terminal, or send it the lines of a file."""

import base64
import json
import secrets
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from domain.api_key import PREFIX
from entrypoints.cli.terminal.client import Reply, ServiceClient, ServiceError, Unreachable
from entrypoints.cli.terminal.text import printable

LISTED: Final = 20
"""Turns or memories that a command shows."""

HELP: Final = """\
/new      begin a new conversation
/history  show the latest turns of this conversation
/memory   show what is remembered about you
/quit     end the chat, as does Ctrl-D
Enter sends a message, Alt-Enter begins a new line. Ctrl-C stops a reply or clears the line."""


class TerminalChat:
    """Sends messages and prints each reply as it streams.

    Without `user`, messages are from the token's user, or else from `terminal`.
    """

    def __init__(self, client: ServiceClient, user: str | None, conversation: str, credential: str | None) -> None:
        self._client = client
        if user is None and (credential is None or credential.startswith(PREFIX)):  # a token names its user itself
            user = "terminal"
        self._named = {} if user is None else {"user_id": user}
        self._user = user or _subject_of(credential or "")
        self._conversation = conversation
        self._commands: dict[str, Callable[[], None]] = {
            "/new": self._begin_conversation,
            "/history": self._show_history,
            "/memory": self._show_memory,
            "/help": lambda: print(HELP),
        }

    def run(self) -> int:
        """Chat until the input ends; return the exit status.

        On a terminal it is 1 if the service cannot be reached at first. Otherwise each line of the input is a message,
        and it is 1 if one of them was not answered; those after it are not sent.
        """
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # e.g. a terminal of ASCII
        return self._converse() if sys.stdin.isatty() and sys.stdout.isatty() else self._answer(sys.stdin)

    def _answer(self, lines: Iterable[str]) -> int:
        sys.stdin.reconfigure(encoding="utf-8-sig")  # type: ignore[union-attr]  # likewise
        try:
            for line in lines:
                if line.strip() and not self._exchange(line.rstrip("\r\n")):
                    return 1
        except (ServiceError, UnicodeDecodeError) as error:
            text = str(error) if isinstance(error, ServiceError) else "The input is not text in UTF-8."
            print(printable(text), file=sys.stderr)
            return 1
        return 0

    def _converse(self) -> int:
        from entrypoints.cli.terminal.prompt import Prompt, without_echo

        try:
            self._client.check()
        except Unreachable as unreachable:
            print(printable(str(unreachable)), file=sys.stderr)
            return 1
        except ServiceError:
            pass  # it is there, and may serve the next request
        prompt = Prompt()
        print("Ctrl-C stops a reply, Ctrl-D ends the chat, /help shows more.\n")
        with without_echo():
            while True:
                try:
                    text = prompt.ask()
                except EOFError:
                    return 0
                if text is None or not text.strip():
                    continue
                if text.strip() == "/quit":
                    return 0
                try:
                    self._handle(text)
                except ServiceError as error:
                    print(printable(str(error)))
                print()

    def _handle(self, text: str) -> None:
        word = text.strip()
        if word in self._commands:
            self._commands[word]()
        elif word.startswith("/") and word[1:].isalpha():
            print(f"There is no command {printable(word)}.\n{HELP}")
        else:
            self._exchange(text)

    def _exchange(self, text: str) -> bool:
        """Send a message and print the reply; return whether it was completed."""
        message = {"conversation_id": self._conversation, "message": text, **self._named}
        try:
            with self._client.send(message) as reply:
                self._print(reply)
        except KeyboardInterrupt:  # leaving the block has closed the connection, which stops the turn
            if not sys.stdin.isatty():
                raise
            print(" [stopped]")
            return False
        for remark in filter(None, (reply.failure, reply.note)):
            self._remark(remark)
        return reply.failure is None

    def _print(self, reply: Reply) -> None:
        try:
            for piece in reply.texts():
                print(printable(piece), end="", flush=True)
        except KeyboardInterrupt:
            if reply.turn_id is not None:
                self._client.stop(reply.turn_id)
            raise
        print(flush=True)

    def _remark(self, text: str) -> None:
        print(f"[{printable(text)}]", file=sys.stdout if sys.stdin.isatty() else sys.stderr)

    def _begin_conversation(self) -> None:
        self._conversation = f"terminal-{secrets.token_hex(4)}"
        print(f"This is the new conversation {self._conversation}; --conversation continues it later.")

    def _show_history(self) -> None:
        page = self._client.get(
            "/api/chat/history/{}", self._known_user(), conversation_id=self._conversation, limit=LISTED
        )
        for turn in page["history"]:
            end = "" if turn["reason"] is None else f" [{turn['reason']}]"
            print(printable(f"{turn['timestamp']}\nyou> {turn['user_message']}\n{turn['assistant_response']}{end}\n"))
        self._tell_the_rest(page, "turns")

    def _show_memory(self) -> None:
        page = self._client.get("/api/memories/{}", self._known_user(), limit=LISTED)
        for memory in page["memories"]:
            print(printable(f"- {memory['fact']}"))
        self._tell_the_rest(page, "memories")

    def _tell_the_rest(self, page: dict[str, Any], what: str) -> None:
        if not page["count"]:
            print(f"There are no {what}.")
        elif page["next_cursor"] is not None:
            print(f"There are more {what}; these are the latest {page['count']}.")

    def _known_user(self) -> str:
        if self._user is None:
            raise ServiceError("It is not known whose token this is: name the user with --user.")
        return self._user


def _subject_of(token: str) -> str | None:
    """Return the user that a JSON Web Token names. The service verifies it."""
    try:
        payload = token.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
