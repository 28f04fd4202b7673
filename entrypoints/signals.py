"""Signals that end the process. Imports nothing heavy, so that they are handled from the first moment on."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio.subprocess import Process

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

HURRY: Final = signal.SIGUSR1
"""What a supervisor sends its workers to have them skip the grace period, see `Supervisor`."""

Handler = Callable[[int, FrameType | None], None]


def exit_on_signals() -> None:
    """Exit at once, and silently, on a signal: with status 128 plus its number.

    For the time before the service serves, and for commands that have nothing to drain. By default Python prints a
    traceback on SIGINT, and process 1 of a container ignores SIGTERM.
    """
    for number in _handled(SIGNALS):
        signal.signal(number, _exit)


@contextmanager
def signals_handled(handler: Handler, numbers: Iterable[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Call `handler` on signals in the block. Does nothing outside the main thread, which alone can handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in _handled(numbers)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def send_signal(process: "Process", number: signal.Signals) -> None:
    """Send a signal to a process that the event loop has started, unless it has ended.

    Its own `send_signal` may take the exit status of one that has just ended away from the event loop, which then
    reports 255 instead; see https://github.com/python/cpython/issues/127049 (Python 3.11).
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _handled(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return all of them, except SIGHUP if the process ignores it, e.g. because it was started by `nohup`."""
    return [
        number for number in numbers if number != signal.SIGHUP or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    ]


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
