"""`smart-chatbot chat` on a terminal, and with piped input and output."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from domain.principal import Principal
from entrypoints.exit_status import BROKEN_PIPE, UNUSABLE
from entrypoints.signals import send_signal
from tests.harness.commands import run
from tests.harness.credentials import ANN, SERVICE, KnownCredentials, authentication, bearer, credential_of
from tests.harness.exchange import TIMEOUT, history
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.raw_server import Call, RawServer
from tests.harness.servers import Service, clean_environment, running_service
from tests.harness.terminal import ALT_ENTER, CTRL_A, CTRL_C, CTRL_D, ENTER, LEFT, UP, Terminal, terminal_of

PROMPT = "you>"
CHAT = (sys.executable, "-m", "entrypoints.cli", "chat")


def chat(directory: Path, url: str, *options: str, **environment: str) -> AbstractAsyncContextManager[Terminal]:
    return terminal_of(*CHAT, "--url", url, *options, directory=directory, environment=environment)


async def say(terminal: Terminal, text: str) -> None:
    await terminal.until_last(PROMPT)
    terminal.type(text.encode() + ENTER)


async def piped(directory: Path, url: str, text: bytes, *options: str, until: bytes = b"") -> tuple[int, str, str]:
    """Send `text` as the input of a chat; return its status, output and errors.

    With `until`, the output is closed once that is in it.
    """
    process = await asyncio.create_subprocess_exec(
        *CHAT, "--url", url, *options,
        cwd=directory,
        env=clean_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT):
        if until:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(text)
            await process.stdin.drain()
            await process.stdout.readuntil(until)
            send_signal(process, signal.SIGINT)
        output, errors = await process.communicate(None if until else text)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


# On a terminal


async def test_a_reply_is_printed(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "Hello?")
        shown = await terminal.until(lambda lines: lines[-1:] == [PROMPT] and len(lines) > 3)
    assert shown == [
        "Ctrl-C stops a reply, Ctrl-D ends the chat, /help shows more.",
        "",
        f"{PROMPT} Hello?",
        "Hello, world!",
        "",
        PROMPT,
    ]


async def test_a_reply_is_printed_while_it_streams(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("The first word",), hangs=True))
    async with running_service({"llm": llm}) as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "Hello?")
        await terminal.until_last("The first word")


async def test_a_line_is_edited_and_earlier_ones_are_recalled(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        terminal.type(b"wrld" + LEFT * 3 + b"o" + CTRL_A + "größe 日本 ".encode() + ENTER)
        await terminal.until_shown("Hello, world!")
        await terminal.until_last(PROMPT)
        terminal.type(UP)
        await terminal.until_last(f"{PROMPT} größe 日本 world")
        turns = await history(service.client, "terminal")
    assert [turn["user_message"] for turn in turns] == ["größe 日本 world"]
    assert list(tmp_path.iterdir()) == []


async def test_wide_characters_keep_the_cursor_in_its_place(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        terminal.type("日本語 ✅ e\u0301".encode() + LEFT * 2 + b"x")
        await terminal.until_last(f"{PROMPT} 日本語 ✅ xé")
        terminal.type(ENTER)
        await terminal.until_shown("Hello, world!")
        [turn] = await history(service.client, "terminal")
    assert turn["user_message"] == "日本語 ✅ xe\u0301"


async def test_pasted_lines_are_one_message(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        terminal.paste("first\n\n  second\tone\nthird")
        await terminal.until_shown("third")
        assert await history(service.client, "terminal") == []
        terminal.type(ENTER)
        await terminal.until_shown("Hello, world!")
        turns = await history(service.client, "terminal")
    assert [turn["user_message"] for turn in turns] == ["first\n\n  second\tone\nthird"]


async def test_alt_enter_begins_a_new_line(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        terminal.type(b"one" + ALT_ENTER + b"two" + ENTER)
        await terminal.until_shown("Hello, world!")
        [turn] = await history(service.client, "terminal")
    assert turn["user_message"] == "one\ntwo"


async def test_a_model_cannot_control_the_terminal(tmp_path: Path) -> None:
    deltas = ("a \x1b", "[31mred\x1b", "]0;title\x07", " \u009b2J b\rc \x08\x7f\u202e", "gnp.\u2066x")
    llm = ScriptedLLM(ScriptedReply(deltas=deltas))
    async with running_service({"llm": llm}) as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "Hello?")
        await terminal.until_shown("a ␛[31mred␛]0;title␇ \ufffd2J bc ␈␡gnp.x")
        await say(terminal, "/history")
        await terminal.until(lambda lines: "\n".join(lines).count("␛[31mred") == 2)
    written = terminal.output.decode()
    assert "\x1b[31m" not in written
    assert "\x1b]" not in written
    assert not set("\x07\x7f\u009b\u202e\u2066") & set(written)


async def test_ctrl_c_stops_the_reply_but_not_the_chat(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Once upon",), hangs=True), ScriptedReply())
    async with running_service({"llm": llm}, on_disconnect="continue") as service:
        async with chat(tmp_path, service.url) as terminal:
            await say(terminal, "A story!")
            await terminal.until_shown("Once upon")
            terminal.type(CTRL_C)
            await terminal.until_shown("[stopped]")
            await say(terminal, "Hello?")
            await terminal.until_shown("Hello, world!")
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
    async with running_service({"llm": llm}, on_disconnect="continue") as service:
        async with chat(tmp_path, service.url) as terminal:
            await say(terminal, "A story!")
            async with asyncio.timeout(TIMEOUT):
                while not asked:
                    await asyncio.sleep(0.01)
            terminal.type(CTRL_C)
            await terminal.until_shown("[stopped]")
            await say(terminal, "Hello?")
            await terminal.until_shown("Hello, world!")
        turns = await history(service.client, "terminal")
    assert [_outcome(turn) for turn in turns] == [
        ("", "interrupted", "client_disconnected"),
        ("Hello, world!", "completed", None),
    ]


async def test_what_is_typed_during_a_reply_is_edited_at_the_next_prompt(tmp_path: Path) -> None:
    asked, typed = asyncio.Event(), asyncio.Event()

    async def wait_for_typing(step: str) -> None:
        if step == "reply":
            asked.set()
            await typed.wait()

    llm = GatedLLM(ScriptedLLM(), wait_for_typing)
    async with running_service({"llm": llm}) as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "Hello?")
        async with asyncio.timeout(TIMEOUT):
            await asked.wait()
        terminal.type(b"Net" + LEFT + b"x")
        typed.set()
        lines = await terminal.until_last(f"{PROMPT} Next")
    assert "Hello, world!" in lines  # a line of its own, without what was typed


async def test_the_terminal_shows_nothing_that_is_typed_between_two_prompts(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        ended = asyncio.Event()
        watching = asyncio.create_task(asyncio.to_thread(_watch, terminal, ended))
        for n in range(1, 6):
            await say(terminal, f"Hello {n}?")
            await terminal.until(partial(_shows_replies, n))
        await terminal.until_last(PROMPT)
        ended.set()
        assert await watching == 0


def _shows_replies(count: int, lines: list[str]) -> bool:
    return lines.count("Hello, world!") == count


def _watch(terminal: Terminal, ended: asyncio.Event) -> int:
    """Return how often the terminal was found to show what is typed by itself."""
    found = 0
    while not ended.is_set():
        found += terminal.echoes()
    return found


async def test_a_signal_during_a_reply_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Once upon",), hangs=True))
    async with running_service({"llm": llm}) as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "A story!")
        await terminal.until_shown("Once upon")
        assert not terminal.echoes()
        terminal.signal(signal.SIGTERM)
        assert await terminal.wait() == 128 + signal.SIGTERM
        assert terminal.echoes()


async def test_ctrl_c_clears_the_line(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        terminal.type(b"never sent")
        await terminal.until_last(f"{PROMPT} never sent")
        terminal.type(CTRL_C)
        await terminal.until_last(PROMPT)
        terminal.type(CTRL_C)
        await terminal.until_shown("Ctrl-D ends the chat.")
        await say(terminal, "Hello?")
        await terminal.until_shown("Hello, world!")
        turns = await history(service.client, "terminal")
    assert [turn["user_message"] for turn in turns] == ["Hello?"]


@pytest.mark.parametrize("keys", [CTRL_D, b"/quit" + ENTER])
async def test_the_chat_is_ended(keys: bytes, tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        terminal.type(keys)
        assert await terminal.wait() == 0
        assert terminal.echoes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals, tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await terminal.until_last(PROMPT)
        assert not terminal.echoes()
        terminal.signal(number)
        assert await terminal.wait() == 128 + number
        assert terminal.echoes()
        assert terminal.output.rfind(b"\x1b[?2004l") > terminal.output.rfind(b"\x1b[?2004h")  # no more marked pastes


async def test_commands_begin_a_conversation_and_show_history_and_memory(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await service.client.post("/api/memories/terminal", json={"fact": "My dog is called \x1b[5mBello."})
        await say(terminal, "/memory")
        await terminal.until_shown("- My dog is called ␛[5mBello.")
        await say(terminal, "/history")
        await terminal.until_shown("There are no turns.")
        await say(terminal, "Hello?")
        await terminal.until_shown("Hello, world!")
        await say(terminal, "/new")
        await terminal.until_shown("This is the new conversation terminal-")
        await say(terminal, "And now?")
        await terminal.until(lambda lines: lines.count("Hello, world!") == 2)
        await say(terminal, "/history")
        await terminal.until(lambda lines: lines.count(f"{PROMPT} And now?") == 2)
        assert terminal.lines().count(f"{PROMPT} Hello?") == 1
        turns = await history(service.client, "terminal")
    assert [turn["conversation_id"][:9] for turn in turns] == ["default", "terminal-"]


async def test_an_unknown_command_is_not_sent_and_a_path_is(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "/histroy")
        await terminal.until_shown("There is no command /histroy.")
        await say(terminal, "/etc/hosts is what?")
        await terminal.until_shown("Hello, world!")
        turns = await history(service.client, "terminal")
    assert [turn["user_message"] for turn in turns] == ["/etc/hosts is what?"]


async def test_a_rejected_message_is_explained_and_the_chat_continues(tmp_path: Path) -> None:
    async with (
        running_service({"llm": ScriptedLLM()}, max_message_chars=5) as service,
        chat(tmp_path, service.url) as terminal,
    ):
        await say(terminal, "Hello?")
        await terminal.until_shown("The message has 6 characters; the limit is 5.")
        await terminal.until_last(PROMPT)


async def test_an_unreachable_service_is_reported_before_anything_is_typed(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        gone = service.url
    async with chat(tmp_path, gone) as terminal:
        assert await terminal.wait() == 1
    shown = "".join(terminal.lines())
    assert shown.startswith(f"Cannot reach {gone}: connection refused. Start the service with")
    assert "Traceback" not in shown


async def test_a_service_that_goes_away_does_not_end_the_chat(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        terminal_process = chat(tmp_path, service.url)
        terminal = await terminal_process.__aenter__()
        await terminal.until_last(PROMPT)
    try:
        await say(terminal, "Hello?")
        await terminal.until_shown(f"Cannot reach {service.url}: connection refused.")
        await terminal.until_last(PROMPT)
    finally:
        await terminal_process.__aexit__(None, None, None)


async def test_the_url_may_have_the_path_of_a_proxy(tmp_path: Path) -> None:
    async with (
        running_service({"llm": ScriptedLLM()}, root_path="/bot") as service,
        chat(tmp_path, f"{service.url}/bot/") as terminal,
    ):
        await say(terminal, "Hello?")
        await terminal.until_shown("Hello, world!")
        await say(terminal, "/history")
        await terminal.until(lambda lines: lines.count("Hello, world!") == 2)


async def test_a_url_of_something_else_is_reported(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, chat(tmp_path, f"{service.url}/bot") as terminal:
        assert await terminal.wait() == 1
    assert "".join(terminal.lines()).startswith(
        f"There is no such service at {service.url}/bot (HTTP 404): check --url"
    )


# With piped input and output


async def test_each_line_of_the_input_is_a_message_and_the_output_has_only_replies(tmp_path: Path) -> None:
    text = "\ufeffHello?\r\n\n/quit\nпривет".encode()
    async with running_service({"llm": ScriptedLLM()}) as service:
        outcome = await piped(tmp_path, service.url, text)
        turns = await history(service.client, "terminal")
    assert outcome == (0, "Hello, world!\n" * 3, "")
    assert [turn["user_message"] for turn in turns] == ["Hello?", "/quit", "привет"]


async def test_a_message_that_is_not_answered_ends_a_script_with_status_1(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}, max_message_chars=6) as service:
        outcome = await piped(tmp_path, service.url, b"Hello?\ntoo long\nnever\n")
        turns = await history(service.client, "terminal")
    assert outcome == (1, "Hello, world!\n", "The message has 8 characters; the limit is 6.\n")
    assert len(turns) == 1


async def test_a_reply_that_fails_ends_a_script_with_status_1_and_its_text(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Half a",), hangs=True))
    async with running_service({"llm": llm}, turn_timeout=0.5) as service:
        status, output, errors = await piped(tmp_path, service.url, b"Hello?\n")
    assert (status, output) == (1, "Half a\n")
    assert errors.startswith("[")


async def test_a_connection_that_breaks_within_a_reply_ends_a_script_with_status_1(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    event = json.dumps({"content": "Half a", "done": False}).encode()

    async def answer_in_part(call: Call) -> None:
        await call.request()
        await call.send(head + b"data: " + event + b"\n\n")

    async with RawServer(answer_in_part) as server:
        status, output, errors = await piped(tmp_path, f"http://127.0.0.1:{server.port}", b"Hello?\n")
    assert (status, output) == (1, "Half a")
    assert "The connection broke before the end of the reply." in errors


async def test_an_interrupted_script_stops_the_reply(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Once upon",), hangs=True))
    async with running_service({"llm": llm}, on_disconnect="continue") as service:
        status, _, errors = await piped(tmp_path, service.url, b"A story!\n", until=b"upon")
        async with asyncio.timeout(TIMEOUT):
            while (turn := (await history(service.client, "terminal"))[0])["status"] == "in_progress":
                await asyncio.sleep(0.01)
    assert (status, errors) == (128 + signal.SIGINT, "")
    assert turn["status"] == "interrupted"


async def test_a_reader_of_the_output_may_leave(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        command = (
            f"yes | {sys.executable} -m entrypoints.cli chat --url {service.url} | head -n 1; echo ${{PIPESTATUS[1]}}"
        )
        outcome = await run("bash", "-c", command, directory=tmp_path)
    assert outcome == (0, f"Hello, world!\n{BROKEN_PIPE}\n", "")


async def test_input_that_is_not_text_is_reported(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        outcome = await piped(tmp_path, service.url, b"\xff\xfe\n")
    assert outcome == (1, "", "The input is not text in UTF-8.\n")


# Credentials


@pytest.mark.parametrize(("principal", "user"), [(ANN, "ann"), (SERVICE, "terminal")])
@pytest.mark.parametrize("place", ["variable", "file"])
async def test_a_key_or_token_is_sent_and_a_token_says_who_sends_the_message(
    tmp_path: Path, principal: Principal, user: str, place: str
) -> None:
    credential = credential_of(principal)
    (tmp_path / "key").write_text(f"{credential}\n")
    options = ("--key-file", "key") if place == "file" else ()
    environment = {} if place == "file" else {"SMART_CHATBOT_KEY": credential}
    async with _authenticating_service() as service, chat(tmp_path, service.url, *options, **environment) as terminal:
        await say(terminal, "Hello?")
        await terminal.until_shown("Hello, world!")
        service.client.headers = bearer(SERVICE)
        assert len(await history(service.client, user)) == 1


async def test_ctrl_c_stops_the_reply_with_the_same_credential(tmp_path: Path) -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("Once upon",), hangs=True))
    key = {"SMART_CHATBOT_KEY": credential_of(ANN)}
    async with _authenticating_service(llm) as service, chat(tmp_path, service.url, **key) as terminal:
        await say(terminal, "A story!")
        await terminal.until_shown("Once upon")
        terminal.type(CTRL_C)
        await terminal.until_shown("[stopped]")
        service.client.headers = bearer(ANN)
        [turn] = await history(service.client, "ann")
    assert turn["reason"] == "cancelled"


async def test_a_missing_credential_is_explained_and_the_chat_continues(tmp_path: Path) -> None:
    async with _authenticating_service() as service, chat(tmp_path, service.url) as terminal:
        await say(terminal, "Hello?")
        await terminal.until_shown("Send a valid API key or token")
        await terminal.until_shown("Set SMART_CHATBOT_KEY, or name a file with --key-file.")
        await terminal.until_last(PROMPT)


async def test_a_user_whom_the_credential_may_not_act_for_is_explained(tmp_path: Path) -> None:
    key = {"SMART_CHATBOT_KEY": credential_of(ANN)}
    async with _authenticating_service() as service, chat(tmp_path, service.url, "--user", "bob", **key) as terminal:
        await say(terminal, "Hello?")
        await terminal.until_shown("Name another user with --user.")


@pytest.mark.parametrize("option", ["--user", "--conversation"])
async def test_an_id_that_is_not_valid_is_reported_with_its_option(option: str, tmp_path: Path) -> None:
    async with (
        running_service({"llm": ScriptedLLM()}) as service,
        chat(tmp_path, service.url, option, "a b") as terminal,
    ):
        await say(terminal, "Hello?")
        await terminal.until_shown(f"{option} must be")


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff"])
async def test_a_file_without_a_credential_ends_the_chat_before_it_begins(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    async with chat(tmp_path, "http://127.0.0.1:9", "--key-file", "key") as terminal:
        assert await terminal.wait() == UNUSABLE


@asynccontextmanager
async def _authenticating_service(llm: ScriptedLLM | None = None) -> AsyncIterator[Service]:
    overrides = {"llm": llm or ScriptedLLM(), "authenticate": KnownCredentials()}
    async with running_service(overrides, **authentication()) as service:
        yield service


def _outcome(turn: dict[str, Any]) -> tuple[str, str, str | None]:
    return turn["assistant_response"], turn["status"], turn["reason"]
