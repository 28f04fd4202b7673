"""A terminal emulator that runs a program, as its user would see it."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pyte

from entrypoints.signals import send_signal
from tests.harness.exchange import TIMEOUT
from tests.harness.servers import clean_environment

CTRL_A, CTRL_C, CTRL_D = b"\x01", b"\x03", b"\x04"
ENTER, ALT_ENTER = b"\r", b"\x1b\r"
UP, LEFT = b"\x1b[A", b"\x1b[D"


class _Screen(pyte.HistoryScreen):
    """Answers questions for the position of the cursor."""

    answer: Callable[[str], None]

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Terminal:
    """The terminal of a running program. `output` is everything that it has written."""

    def __init__(self, fd: int, process: asyncio.subprocess.Process, columns: int, lines: int) -> None:
        self._fd = fd
        self._process = process
        self._screen = _Screen(columns, lines, history=1000)
        self._screen.answer = lambda data: self.type(data.encode())
        self._stream = pyte.ByteStream(self._screen)
        self.output = b""

    def type(self, keys: bytes | str) -> None:
        os.write(self._fd, keys.encode() if isinstance(keys, str) else keys)

    def paste(self, text: str) -> None:
        """Type `text` as terminals do for a program that wants to know what was pasted."""
        assert b"\x1b[?2004h" in self.output, "the program has not asked for it"
        self.type(f"\x1b[200~{text}\x1b[201~")

    def signal(self, number: signal.Signals) -> None:
        send_signal(self._process, number)

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as it does when no program edits lines."""
        return bool(termios.tcgetattr(self._fd)[3] & termios.ECHO)

    def lines(self) -> list[str]:
        """Return the lines that are shown, without empty ones at the end."""
        shown = [line.rstrip() for line in self._screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    async def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the lines shown meet a condition, and return them."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    self._read()
                    if condition(self.lines()):
                        return self.lines()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"in vain; shown: {self.lines()}; the last output: {self.output[-500:]!r}") from None

    async def until_last(self, line: str) -> list[str]:
        """Wait until the last line is this one, e.g. a prompt."""
        return await self.until(lambda lines: bool(lines) and lines[-1] == line)

    async def until_shown(self, text: str) -> list[str]:
        return await self.until(lambda lines: text in "\n".join(lines))

    async def wait(self) -> int:
        """Wait for the program to exit and return its status."""
        async with asyncio.timeout(TIMEOUT):
            status = await self._process.wait()
        self._read()
        return status

    def _read(self) -> None:
        with suppress(BlockingIOError, OSError):  # the latter once the program has exited
            while data := os.read(self._fd, 10_000):
                self.output += data
                self._stream.feed(data)


@asynccontextmanager
async def terminal_of(
    *command: str, directory: Path, environment: Mapping[str, str], columns: int = 80, lines: int = 24
) -> AsyncIterator[Terminal]:
    """Run a command on a terminal of its own, and kill it on exit."""
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=clean_environment(**{"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment}),
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(child)
    try:
        yield Terminal(parent, process, columns, lines)
    finally:
        send_signal(process, signal.SIGKILL)
        await process.wait()
        os.close(parent)


def _take_terminal() -> None:
    """Make the terminal on standard input the controlling terminal, so that Ctrl-C sends SIGINT."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
