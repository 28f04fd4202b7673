"""A model's service and `OPENAI_BASE_URL` that disagree about TLS: what the operator is told, and whether to retry."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import httpcore2  # noqa: F401  # httpx2 imports it with the first certificates, when it would block the test's loop
import pytest
import trustme

from adapters.llm_openai import LLMOpenAI
from application.ports.llm import LLMDisconnected, LLMError, LLMNotConnectable, LLMRefused, LLMUnreachable
from domain.conversation import Message, Role
from tests.harness.raw_server import Call, Play, RawServer

CHECK_SCHEME = "check whether OPENAI_BASE_URL is http or https"
TIMEOUT = 5
EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + EVENTS

OpenLLM = Callable[[str], LLMOpenAI]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_proxy_of_this_machine")]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def server_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "certificate_authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate_authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
async def open_llm() -> AsyncIterator[OpenLLM]:
    opened: list[LLMOpenAI] = []

    def open_(url: str) -> LLMOpenAI:
        llm = LLMOpenAI(api_key="sk-test", base_url=url, model="any", temperature=0, max_tokens=10, connect_timeout=1)
        opened.append(llm)
        return llm

    yield open_
    for llm in opened:
        await llm.close()


async def deltas_of(llm: LLMOpenAI) -> list[str]:
    with anyio.fail_after(TIMEOUT):
        async with llm.reply([Message(Role.USER, "Hello")]) as reply:
            return [delta async for deltas in reply for delta in deltas]


async def error_of(llm: LLMOpenAI) -> LLMError:
    with pytest.raises(LLMError) as raised:
        await deltas_of(llm)
    return raised.value


def cause_of(error: LLMError) -> tuple[object, object]:
    return error.diagnosis.get("cause"), error.diagnosis.get("cause_detail")


def after_hello(answer: bytes) -> Play:
    """Answer the first message of a handshake with these bytes."""

    async def play(call: Call) -> None:
        await call.reader.read(4096)
        await call.send(answer)
        await call.left()

    return play


def alert(code: int) -> bytes:
    return b"\x15\x03\x03\x00\x02\x02" + bytes([code])


async def test_https_on_a_port_without_tls_is_not_retryable(open_llm: OpenLLM) -> None:
    async with RawServer(after_hello(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")) as server:
        error = await error_of(open_llm(f"https://localhost:{server.port}"))
    assert (type(error), error.retryable) == (LLMNotConnectable, False)
    assert cause_of(error) == ("tls", "wrong version number")
    assert CHECK_SCHEME in error.detail


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (40, "sslv3 alert handshake failure"),
        (48, "tlsv1 alert unknown ca"),
        (70, "tlsv1 alert protocol version"),
        (71, "tlsv1 alert insufficient security"),
        (112, "tlsv1 unrecognized name"),
        (116, "tlsv13 alert certificate required"),
    ],
)
async def test_a_handshake_that_the_service_rejects_is_not_retryable(open_llm: OpenLLM, code: int, words: str) -> None:
    async with RawServer(after_hello(alert(code))) as server:
        error = await error_of(open_llm(f"https://localhost:{server.port}"))
    assert (type(error), error.retryable) == (LLMNotConnectable, False)
    assert cause_of(error) == ("tls", words)
    assert "which versions of TLS" in error.detail


@pytest.mark.parametrize(("code", "words"), [(20, "sslv3 alert bad record mac"), (80, "tlsv1 alert internal error")])
async def test_a_handshake_that_fails_by_chance_is_retryable(open_llm: OpenLLM, code: int, words: str) -> None:
    async with RawServer(after_hello(alert(code))) as server:
        error = await error_of(open_llm(f"https://localhost:{server.port}"))
    assert (type(error), error.retryable) == (LLMUnreachable, True)
    assert cause_of(error) == ("tls", words)


async def close(call: Call) -> None:
    await call.reader.read(4096)


async def reset(call: Call) -> None:
    await call.reader.read(4096)
    call.reset()


@pytest.mark.parametrize("play", [close, reset])
async def test_a_connection_that_ends_within_the_handshake_is_retryable(open_llm: OpenLLM, play: Play) -> None:
    async with RawServer(play) as server:
        error = await error_of(open_llm(f"https://localhost:{server.port}"))
    assert (type(error), error.retryable) == (LLMUnreachable, True)


@pytest.mark.parametrize("version", [b"\x03\x01", b"\x03\x03"])
async def test_http_that_is_answered_by_a_tls_alert_is_not_retryable(open_llm: OpenLLM, version: bytes) -> None:
    async with RawServer(after_hello(b"\x15" + version + b"\x00\x02\x02\x0a")) as server:
        error = await error_of(open_llm(server.url))
        await server.all_closed()
    assert (type(error), error.retryable, error.repeatable) == (LLMNotConnectable, False, False)
    assert cause_of(error) == ("tls", "required")
    assert CHECK_SCHEME in error.detail


async def test_http_on_a_port_with_tls_that_closes_gets_the_hint(
    open_llm: OpenLLM, server_context: ssl.SSLContext
) -> None:
    # asyncio reports the failed handshake of the server to the loop's exception handler as well.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with RawServer(Call.left, secure=server_context) as server:
        error = await error_of(open_llm(f"http://localhost:{server.port}"))
    assert (type(error), error.retryable) == (LLMDisconnected, True)
    assert cause_of(error) == ("closed", None)
    assert CHECK_SCHEME in error.detail


async def test_http_on_a_port_that_resets_the_connection_gets_the_hint(open_llm: OpenLLM) -> None:
    async with RawServer(reset) as server:
        error = await error_of(open_llm(server.url))
    assert (type(error), error.retryable) == (LLMDisconnected, True)
    assert cause_of(error) == ("reset", None)
    assert CHECK_SCHEME in error.detail


async def test_http_that_is_answered_by_a_page_about_https_gets_the_hint(open_llm: OpenLLM) -> None:
    page = b"Client sent an HTTP request to an HTTPS server.\n"
    async with RawServer(answer_and_close(b"HTTP/1.0 400 Bad Request\r\n\r\n" + page)) as server:
        error = await error_of(open_llm(server.url))
    assert (type(error), error.retryable) == (LLMRefused, False)
    assert CHECK_SCHEME in error.detail


def answer_and_close(answer: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(answer)

    return play


async def test_a_service_that_has_responded_before_gets_no_hint_when_it_closes(open_llm: OpenLLM) -> None:
    async def play(call: Call) -> None:
        await call.request()
        if server.connections == 1:
            await call.send(STREAM)

    async with RawServer(play) as server:
        llm = open_llm(server.url)
        assert await deltas_of(llm) == ["Hi"]
        error = await error_of(llm)
    assert cause_of(error) == ("closed", None)
    assert CHECK_SCHEME not in error.detail


async def test_a_service_over_tls_gets_no_hint_when_it_closes(
    open_llm: OpenLLM, server_context: ssl.SSLContext
) -> None:
    async with RawServer(answer_and_close(b""), secure=server_context) as server:
        error = await error_of(open_llm(server.url))
    assert cause_of(error) == ("closed", None)
    assert CHECK_SCHEME not in error.detail
