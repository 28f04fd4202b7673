"""Signals that end the process. Imports nothing heavy, so that they are handled from the first moment on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


def exit_on_signals() -> None:
    """Exit at once, and silently, on a signal: with status 128 plus its number.

    For the time before the service serves, and for commands that have nothing to drain. By default Python prints a
    traceback on SIGINT, and process 1 of a container ignores SIGTERM.
    """
    for number in _handled():
        signal.signal(number, _exit)


@contextmanager
def signals_handled(handler: Handler) -> Iterator[None]:
    """Call `handler` on signals in the block. Does nothing outside the main thread, which alone can handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in _handled()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _handled() -> list[signal.Signals]:
    """All of them but a hangup that is ignored, as `nohup` arranges."""
    return [
        number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    ]


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
