"""`smart-chatbot chat` in a pseudo-terminal."""

import asyncio
import fcntl
import os
import pty
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from domain.principal import Principal
from entrypoints.exit_status import UNUSABLE
from tests.harness.credentials import ANN, SERVICE, KnownCredentials, authentication, bearer, credential_of
from tests.harness.exchange import TIMEOUT, history
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.servers import Service, clean_environment, running_service

CTRL_C, CTRL_D = b"\x03", b"\x04"
PROMPT = "you> "


class Terminal:
    """The pseudo-terminal that runs `smart-chatbot chat`."""

    def __init__(self, fd: int, process: asyncio.subprocess.Process) -> None:
        self._fd = fd
        self._process = process
        self._unread = ""

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    async def read_until(self, text: str) -> str:
        """Return the output up to and including `text`."""
        async with asyncio.timeout(TIMEOUT):
            while text not in self._unread:
                await asyncio.sleep(0.01)
                with suppress(BlockingIOError):
                    self._unread += os.read(self._fd, 10_000).decode()
        seen, text, self._unread = self._unread.partition(text)
        return seen + text

    async def wait(self) -> int:
        """Wait for the process to exit and return its status."""
        async with asyncio.timeout(TIMEOUT):
            return await self._process.wait()


async def test_a_reply_is_printed(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, _chat(tmp_path, service.url) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert await terminal.read_until(PROMPT) == f"Hello?\r\nHello, world!\r\n\r\n{PROMPT}"


async def test_a_reply_is_printed_while_it_streams(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("The first word",), hangs=True))
    async with running_service({"llm": llm}) as service, _chat(tmp_path, service.url) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert await terminal.read_until("The first word") == "Hello?\r\nThe first word"


async def test_ctrl_c_stops_the_reply_but_not_the_chat(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Once upon",), hangs=True), ScriptedReply())
    async with running_service({"llm": llm}) as service, _chat(tmp_path, service.url) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"A story!\n")
        await terminal.read_until("Once upon")
        terminal.type(CTRL_C)
        assert "[stopped]" in await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert "Hello, world!" in await terminal.read_until(PROMPT)
        turns = await history(service.client, "terminal")
    assert [_outcome(turn) for turn in turns] == [
        ("Once upon", "interrupted", "cancelled"),
        ("Hello, world!", "completed", None),
    ]


async def test_ctrl_c_before_the_first_token_stops_the_turn_but_not_the_chat(tmp_path: Path) -> None:
    asked: list[str] = []

    async def hang_at_first(step: str) -> None:
        if step == "reply":
            asked.append(step)
            if len(asked) == 1:
                await asyncio.Event().wait()

    llm = GatedLLM(ScriptedLLM(), hang_at_first)
    async with running_service({"llm": llm}) as service, _chat(tmp_path, service.url) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"A story!\n")
        async with asyncio.timeout(TIMEOUT):
            while not asked:
                await asyncio.sleep(0.01)
        terminal.type(CTRL_C)
        assert "[stopped]" in await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert "Hello, world!" in await terminal.read_until(PROMPT)
        turns = await history(service.client, "terminal")
    assert [_outcome(turn) for turn in turns] == [
        ("", "interrupted", "client_disconnected"),
        ("Hello, world!", "completed", None),
    ]


async def test_ctrl_d_ends_the_chat(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, _chat(tmp_path, service.url) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(CTRL_D)
        assert await terminal.wait() == 0


async def test_a_rejected_message_is_explained_and_the_chat_continues(tmp_path: Path) -> None:
    async with (
        running_service({"llm": ScriptedLLM()}, max_message_chars=5) as service,
        _chat(tmp_path, service.url) as terminal,
    ):
        await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert "The message has 6 characters; the limit is 5." in await terminal.read_until(PROMPT)


async def test_an_unreachable_service_ends_the_chat_with_an_error(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        gone = service.url
    async with _chat(tmp_path, gone) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        seen = await terminal.read_until("refused\r\n")
        assert f"Cannot reach {gone}: " in seen
        assert "Traceback" not in seen
        assert await terminal.wait() == 1


@pytest.mark.parametrize(("principal", "user"), [(ANN, "ann"), (SERVICE, "terminal")])
@pytest.mark.parametrize("place", ["variable", "file"])
async def test_a_key_or_token_is_sent_and_a_token_says_who_sends_the_message(
    tmp_path: Path, principal: Principal, user: str, place: str
) -> None:
    credential = credential_of(principal)
    (tmp_path / "key").write_text(f"{credential}\n")
    options = ("--key-file", "key") if place == "file" else ()
    environment = {} if place == "file" else {"SMART_CHATBOT_KEY": credential}
    async with _authenticating_service() as service, _chat(tmp_path, service.url, *options, **environment) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert "Hello, world!" in await terminal.read_until(PROMPT)
        service.client.headers = bearer(SERVICE)
        assert len(await history(service.client, user)) == 1


async def test_ctrl_c_stops_the_reply_with_the_same_credential(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Once upon",), hangs=True))
    key = {"SMART_CHATBOT_KEY": credential_of(ANN)}
    async with _authenticating_service(llm) as service, _chat(tmp_path, service.url, **key) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"A story!\n")
        await terminal.read_until("Once upon")
        terminal.type(CTRL_C)
        assert "[stopped]" in await terminal.read_until(PROMPT)
        service.client.headers = bearer(ANN)
        [turn] = await history(service.client, "ann")
    assert turn["reason"] == "cancelled"


async def test_a_missing_credential_is_explained_and_the_chat_continues(tmp_path: Path) -> None:
    async with _authenticating_service() as service, _chat(tmp_path, service.url) as terminal:
        await terminal.read_until(PROMPT)
        terminal.type(b"Hello?\n")
        assert "Send a valid API key or token" in await terminal.read_until(PROMPT)


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff"])
async def test_a_file_without_a_credential_ends_the_chat_before_it_begins(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    async with _chat(tmp_path, "http://127.0.0.1:9", "--key-file", "key") as terminal:
        assert await terminal.wait() == UNUSABLE


@asynccontextmanager
async def _authenticating_service(llm: ScriptedLLM | None = None) -> AsyncIterator[Service]:
    overrides = {"llm": llm or ScriptedLLM(), "authenticate": KnownCredentials()}
    async with running_service(overrides, **authentication()) as service:
        yield service


@asynccontextmanager
async def _chat(directory: Path, url: str, *options: str, **environment: str) -> AsyncIterator[Terminal]:
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entrypoints.cli", "chat", "--url", url, *options),
        cwd=directory,
        env=clean_environment(**environment),
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(child)
    try:
        yield Terminal(parent, process)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        os.close(parent)


def _take_terminal() -> None:
    """Make the terminal on standard input the controlling terminal, so that Ctrl-C sends SIGINT."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _outcome(turn: dict[str, Any]) -> tuple[str, str, str | None]:
    return turn["assistant_response"], turn["status"], turn["reason"]
