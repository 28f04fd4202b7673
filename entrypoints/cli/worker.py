"""A worker of `smart-chatbot serve --workers N`, started by its supervisor (`worker_process.py`)."""

import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from threading import Thread

from entrypoints.signals import exit_on_signals
from entrypoints.standard_streams import replace_closed_streams


def main() -> None:
    """Read the settings, serve on the socket of the supervisor, and exit like `smart-chatbot serve`.

    The arguments are, behind the path of the package, the file descriptors of the listener and of the socket to the
    supervisor.
    """
    exit_on_signals()
    replace_closed_streams()
    listener, supervisor = (socket.socket(fileno=int(number)) for number in sys.argv[2:])
    supervisor.set_inheritable(False)
    listener.set_inheritable(False)
    try:
        settings = pickle.load(supervisor.makefile("rb"))  # noqa: S301  # from the process that started this one
    except (EOFError, OSError, pickle.UnpicklingError):  # which was killed before it had sent them
        sys.exit(128 + signal.SIGTERM)
    Thread(target=_end_with, args=(supervisor,), name="supervisor", daemon=True).start()

    import structlog

    from domain.errors import Unusable
    from entrypoints.cli.serve import run_server
    from entrypoints.exit_status import UNUSABLE
    from entrypoints.worker_process import ALIVE, LISTENING, REFUSAL

    def report(*words: str) -> None:
        with suppress(OSError):  # it has been killed
            supervisor.sendall(" ".join(" ".join(words).split()).encode() + b"\n")

    def report_alive() -> None:
        with suppress(OSError):  # e.g. because it was paused and has read none for long
            supervisor.send(f"{ALIVE}\n".encode(), socket.MSG_DONTWAIT)

    structlog.contextvars.bind_contextvars(pid=os.getpid())
    try:
        run_server(settings, listener, lambda _: report(LISTENING), on_alive=report_alive).exit()
    except Unusable as unusable:
        report(REFUSAL, str(unusable))
        sys.exit(UNUSABLE)


def _end_with(supervisor: socket.socket) -> None:
    """Drain when the supervisor has ended, which closes its side of the socket."""
    with suppress(OSError):  # it was killed before it had read the last report
        while supervisor.recv(1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
