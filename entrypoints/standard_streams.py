"""Standard output and error that may be full, broken or closed, none of which may stop the service.

Imports nothing heavy: it is used before anything else.
"""

import json
import os
import select
import sys
from contextlib import suppress
from typing import Final, TextIO

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def replace_closed_streams() -> None:
    """Open the null device in place of standard streams that the parent process closed.

    Python leaves None in `sys` for them, and the system would give their numbers to other files.
    """
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # it stays open


def warn(sentence: str) -> None:
    """Print a warning to standard error."""
    LossyWriter(sys.stderr).write(f"warning: {sentence}\n")


class LossyWriter:
    """Drops output that cannot be written at once: a pipe that is full or closed must not stop the service.

    The number of dropped lines is written as a log line before the next line that can be written. Bypasses the buffer
    of `file`, in which dropped output would stay, and make Python's exit fail.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._dropped = 0
        self._cut = False
        """The last line was written in part."""
        self._descriptor: int | None = None
        with suppress(OSError, ValueError):  # e.g. a file in memory, which never blocks
            self._descriptor = file.fileno()
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, text: str) -> None:
        if self._dropped:
            notice = {"event": "log lines dropped", "count": self._dropped, "level": "warning"}
            if self._wrote(("\n" if self._cut else "") + json.dumps(notice) + "\n"):
                self._dropped = 0
        if self._dropped or not self._wrote(text):
            self._dropped += 1

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def _wrote(self, text: str) -> bool:
        """Write the text, unless the reader is too slow for a piece of it, or gone."""
        if self._descriptor is None:
            with suppress(ValueError):  # the file is closed
                self._file.write(text)
            return True
        data = text.encode(self._file.encoding, "backslashreplace")
        written = 0
        with suppress(OSError):
            while written < len(data) and self._poll.poll(0):
                # A pipe that is ready takes so much without blocking.
                written += os.write(self._descriptor, data[written : written + select.PIPE_BUF])
        complete = written == len(data)
        self._cut = not complete and (self._cut or written > 0)
        return complete
