"""The prompt of the terminal chat: line editing, a history, and pasted lines as one message."""

import asyncio
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

TEXT: Final = "you> "

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class Prompt:
    """Asks for messages. Their history is kept in memory only: messages are private, and nobody asked for a file."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            TEXT,
            multiline=True,
            prompt_continuation=" " * len(TEXT),
            key_bindings=_bindings(),
            history=InMemoryHistory(),
            enable_suspend=True,
        )

    def ask(self) -> str | None:
        """Return what was typed, which may have several lines; None if it was cleared with Ctrl-C.

        Raises:
            EOFError: Ctrl-D was pressed.
        """
        before = {number: signal.getsignal(number) for number in _ENDING}
        try:
            return self._session.prompt(pre_run=self._exit_on_signals)
        except _Signalled as signalled:
            sys.exit(128 + signalled.number)
        except KeyboardInterrupt:
            if not self._session.default_buffer.text:
                print("Ctrl-D ends the chat.")
            return None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _exit_on_signals(self) -> None:
        """Have signals end the prompt in its own way, which leaves the terminal as it was."""
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._end, number)

    def _end(self, number: signal.Signals) -> None:
        with suppress(Exception):  # it has ended already
            self._session.app.exit(exception=_Signalled(number))


@contextmanager
def without_echo() -> Iterator[None]:
    """Keep what is typed in the block from being shown within the output. The next prompt gets and shows it.

    Prompts belong into the block, too: they take the line for empty, so nothing may be shown right before they begin.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = before.copy()
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


class _Signalled(Exception):
    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number


def _bindings() -> KeyBindings:
    """Enter sends, also if there are several lines; Alt-Enter begins a new one."""
    bindings = KeyBindings()
    writing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=writing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=writing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
