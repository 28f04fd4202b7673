"""The way to a model's service through TLS and proxies, on both event loops."""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import httpcore2  # noqa: F401  # httpx2 imports it with the first certificates, when it would block the test's loop
import pytest
import trustme

from adapters.llm_openai import LLMOpenAI
from adapters.openai_api.connection import Answer
from adapters.openai_api.service import ModelService
from application.ports.llm import LLMDisconnected, LLMError, LLMUnreachable
from domain.conversation import Message, Role
from tests.harness.raw_server import Call, Play, RawServer

EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)
UNREACHED = (LLMUnreachable, True)
SOON = 5

Open = Callable[[str], LLMOpenAI]
Ending = Callable[[Call], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("nothing_else_is_collected", "nothing_is_left_behind", "no_proxy_of_this_machine")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.fixture(scope="module")
def certified(authority: trustme.CA) -> ssl.SSLContext:
    return certified_by(authority)


def certified_by(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "model.test").configure_cert(context)
    return context


@pytest.fixture
async def open_llm() -> AsyncIterator[Open]:
    opened: list[LLMOpenAI] = []

    def open_(url: str) -> LLMOpenAI:
        llm = LLMOpenAI(api_key="sk-test", base_url=url, model="any", temperature=0, max_tokens=10, connect_timeout=1)
        opened.append(llm)
        return llm

    yield open_
    for llm in opened:
        await llm.close()


async def said(llm: LLMOpenAI) -> list[str]:
    with anyio.fail_after(SOON):
        async with llm.reply([Message(Role.USER, "Hello")]) as reply:
            return [text async for texts in reply for text in texts]


async def pieces_of(answer: Answer) -> AsyncIterator[bytes]:
    while piece := await answer.read(16 * 1024):
        yield piece


async def error_of(llm: LLMOpenAI) -> tuple[type[LLMError], bool]:
    with pytest.raises(LLMError) as raised:
        await said(llm)
    return type(raised.value), raised.value.repeatable


async def streaming(call: Call) -> None:
    while True:
        await call.request()
        await call.send(STREAM)


async def answering_once(call: Call) -> None:
    await call.request()
    await call.send(STREAM.replace(b"Content-Length", b"Connection: close\r\nContent-Length"))


def tunnel_to(service: RawServer) -> Play:
    """Leads whoever wants to go anywhere to this service."""

    async def play(call: Call) -> None:
        await call.request()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        await call.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(carry, call.reader, writer)
                both.start_soon(carry, reader, call.writer)
        finally:
            writer.transport.abort()

    return play


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    writer.close()


def basic(user: str) -> bytes:
    return b"proxy-authorization: Basic " + b64encode(user.encode()) + b"\r\n"


@pytest.mark.usefixtures("trusted")
async def test_a_stream_comes_over_tls(open_llm: Open, certified: ssl.SSLContext) -> None:
    async with RawServer(streaming, secure=certified) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 3 == [await said(llm) for _ in range(3)]
        assert 1 == server.connections


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_for_another_name_is_not_believed(open_llm: Open, certified: ssl.SSLContext) -> None:
    async with RawServer(streaming, secure=certified) as server:
        assert UNREACHED == await error_of(open_llm(f"https://127.0.0.1:{server.port}"))
        assert [] == server.requests


@pytest.mark.usefixtures("trusted")
async def test_an_unknown_authority_is_not_believed(open_llm: Open) -> None:
    async with RawServer(streaming, secure=certified_by(trustme.CA())) as server:
        assert UNREACHED == await error_of(open_llm(server.url))
        assert [] == server.requests


@pytest.mark.usefixtures("trusted")
async def test_a_plain_service_is_not_spoken_to_over_tls(open_llm: Open) -> None:
    async def play(call: Call) -> None:
        await call.send(STREAM)
        await call.left()

    async with RawServer(play) as server:
        assert UNREACHED == await error_of(open_llm(f"https://localhost:{server.port}"))


@pytest.mark.usefixtures("trusted")
async def test_a_handshake_that_takes_too_long_is_ended(open_llm: Open) -> None:
    async with RawServer(Call.left) as server:
        assert UNREACHED == await error_of(open_llm(f"https://localhost:{server.port}"))
        await server.all_closed()


@pytest.mark.usefixtures("trusted")
async def test_cancelling_within_a_handshake_closes_the_connection(open_llm: Open) -> None:
    async with RawServer(Call.left) as server:
        with anyio.move_on_after(0.2) as scope:
            await said(open_llm(f"https://localhost:{server.port}"))
        assert scope.cancelled_caught
        await server.all_closed()


async def cancelled_after(turns: int, llm: LLMOpenAI) -> None:
    task = asyncio.create_task(said(llm))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("turns", range(16))
async def test_cancelling_at_any_moment_is_not_in_the_way_of_the_next_connection(
    open_llm: Open, certified: ssl.SSLContext, turns: int
) -> None:
    async with RawServer(answering_once, secure=certified) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await said(llm)
        await cancelled_after(turns, llm)
        assert ["Hi"] == await said(llm)
        await server.all_closed()


async def end(call: Call) -> None:
    call.writer.close()


async def reset(call: Call) -> None:
    call.reset()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_secure_connection_that_was_closed_while_idle_is_not_used_again(
    open_llm: Open, certified: ssl.SSLContext, ending: Ending
) -> None:
    read = asyncio.Event()

    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM)
        await read.wait()
        await ending(call)

    async with RawServer(play, secure=certified) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await said(llm)
        read.set()
        await server.all_closed()
        assert ["Hi"] == await said(llm)
        assert 2 == server.connections


@pytest.mark.usefixtures("trusted")
async def test_a_secure_request_that_was_answered_before_it_was_read_closes_its_connection(
    certified: ssl.SSLContext,
) -> None:
    async def play(call: Call) -> None:
        await call.head()
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await anyio.sleep_forever()

    async with RawServer(play, secure=certified) as server:
        service = ModelService(api_key="sk-test", base_url=server.url, connect_timeout=1, idle_timeout=60)
        for _ in range(2):
            with anyio.fail_after(SOON):
                answer = await service.ask(b"x" * 32_000_000)
            answer.release()
        assert 2 == server.connections


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_secure_connection_that_breaks_within_an_answer_is_an_error(
    open_llm: Open, certified: ssl.SSLContext, ending: Ending
) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM[:-40])
        await ending(call)

    async with RawServer(play, secure=certified) as server:
        assert (LLMDisconnected, False) == await error_of(open_llm(server.url))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("size", [1_000_000, 48_000_000])
async def test_a_slow_reader_misses_nothing_of_a_secure_answer(certified: ssl.SSLContext, size: int) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for number in range(size // 1000):
            await call.send(b"%1000d" % number)

    async with RawServer(play, secure=certified) as server:
        service = ModelService(api_key="sk-test", base_url=server.url, connect_timeout=1, idle_timeout=60)
        answer = await service.ask(b"{}")
        await server.stalled()
        assert server.sent < 16_000_000
        read = b"".join([piece async for piece in pieces_of(answer)])
        assert b"".join(b"%1000d" % number for number in range(size // 1000)) == read
        answer.release()


async def test_a_proxy_is_asked_for_the_whole_url(open_llm: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(streaming) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert ["Hi"] == await said(open_llm("http://us:pw@model.test:81/v1"))
        assert proxy.requests[0].startswith(b"POST http://model.test:81/v1/chat/completions HTTP/1.1\r\n")
        assert b"\r\nhost: model.test:81\r\n" in proxy.requests[0].lower()
        assert b"proxy-authorization" not in proxy.requests[0]


async def test_a_service_is_asked_for_a_path(open_llm: Open) -> None:
    async with RawServer(streaming) as server:
        assert ["Hi"] == await said(open_llm(f"{server.url}/v1"))
        assert server.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


async def test_a_service_is_told_its_address_in_brackets(open_llm: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(streaming) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert ["Hi"] == await said(open_llm("http://[::1]:81/v1"))
        assert proxy.requests[0].startswith(b"POST http://[::1]:81/v1/chat/completions HTTP/1.1\r\n")
        assert b"\r\nhost: [::1]:81\r\n" in proxy.requests[0].lower()


async def test_a_proxy_is_told_who_asks(open_llm: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(streaming) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://us%40er:p%3Aw%2Fd@localhost:{proxy.port}")
        assert ["Hi"] == await said(open_llm("http://model.test/v1"))
        assert basic("us@er:p:w/d") in proxy.requests[0]


async def test_a_proxy_needs_no_scheme(open_llm: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(streaming) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"us:pw@localhost:{proxy.port}")
        assert ["Hi"] == await said(open_llm("http://model.test/v1"))
        assert basic("us:pw") in proxy.requests[0]


@pytest.mark.usefixtures("trusted")
async def test_a_tunnel_leads_to_a_secure_service(
    open_llm: Open, certified: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(streaming, secure=certified) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://us%40er:pw@localhost:{proxy.port}")
        llm = open_llm("https://model.test:81/v1")
        assert [["Hi"]] * 3 == [await said(llm) for _ in range(3)]
        assert [
            b"CONNECT model.test:81 HTTP/1.1\r\nhost: model.test:81\r\n%b\r\n" % basic("us@er:pw")
        ] == proxy.requests
        assert service.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert b"proxy-authorization" not in service.requests[0]


@pytest.mark.usefixtures("trusted")
async def test_a_tunnel_may_begin_at_a_secure_proxy(
    open_llm: Open, certified: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        RawServer(streaming, secure=certified) as service,
        RawServer(tunnel_to(service), secure=certified) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        llm = open_llm("https://model.test:81/v1")
        assert [["Hi"]] * 3 == [await said(llm) for _ in range(3)]
        assert 1 == proxy.connections


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_tunnel_that_was_closed_while_idle_is_not_used_again(
    open_llm: Open, certified: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, ending: Ending
) -> None:
    read = asyncio.Event()

    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM)
        await read.wait()
        await ending(call)

    async with RawServer(play, secure=certified) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        llm = open_llm("https://model.test:81/v1")
        assert ["Hi"] == await said(llm)
        read.set()
        await proxy.all_closed()
        assert ["Hi"] == await said(llm)
        assert 2 == proxy.connections


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway", b"302 Found"])
async def test_a_proxy_that_refuses_is_no_way(open_llm: Open, monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    said_to_it = []

    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 %b\r\nContent-Length: 6\r\n\r\nsecret" % status)
        said_to_it.append(await call.reader.read(1))

    async with RawServer(play) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert UNREACHED == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()
        assert [b""] == said_to_it


async def garbage(call: Call) -> None:
    await call.request()
    await call.send(b"SSH-2.0-OpenSSH_9.9\r\n")
    await call.left()


async def nothing(call: Call) -> None:
    await call.request()


async def silence(call: Call) -> None:
    await call.request()
    await call.left()


async def an_end(call: Call) -> None:
    await call.request()
    await call.send(b"HTTP/1.1 200 OK\r\n\r\n")


async def surplus(call: Call) -> None:
    await call.request()
    await call.send(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
    await call.left()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("play", [garbage, nothing, silence, an_end, surplus])
async def test_a_proxy_that_fails_is_no_way(open_llm: Open, monkeypatch: pytest.MonkeyPatch, play: Play) -> None:
    async with RawServer(play) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert UNREACHED == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()


async def an_end_within_tls(call: Call) -> None:
    await call.request()
    await call.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await call.reader.read(1)


async def no_tls(call: Call) -> None:
    await call.request()
    await call.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await call.reader.read(1)
    await call.send(b"no TLS here\r\n")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("play", [nothing, an_end, an_end_within_tls, no_tls])
async def test_a_secure_proxy_that_fails_is_no_way(
    open_llm: Open, certified: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, play: Play
) -> None:
    # asyncio stumbles over TLS in TLS that fails, and tells the loop, which would fail the test.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with RawServer(play, secure=certified) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert UNREACHED == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()


@pytest.mark.usefixtures("trusted")
async def test_whom_a_proxy_leads_to_is_believed_with_a_certificate_only(
    open_llm: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = certified_by(trustme.CA())
    async with RawServer(streaming, secure=forged) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert UNREACHED == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()
        assert [] == service.requests


@pytest.mark.usefixtures("trusted")
async def test_cancelling_within_a_tunnel_closes_the_connection(
    open_llm: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(Call.left) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with anyio.move_on_after(0.3) as scope:
            await said(open_llm("https://model.test/v1"))
        assert scope.cancelled_caught
        await service.all_closed()


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://localhost:1",
        "socks5h://us:pw@localhost:1",
        "http://localhost:port",
        "http://localhost:99999",
        "http://[::1:8080",
    ],
)
async def test_a_proxy_that_nobody_can_speak_to_is_no_way(
    open_llm: Open, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert UNREACHED == await error_of(open_llm("http://model.test/v1"))


@pytest.mark.parametrize("named", ["socks5://localhost:{port}", "socks5h://localhost:{port}", ":{port}"])
async def test_nothing_is_said_to_a_proxy_of_another_kind_or_of_no_name(
    open_llm: Open, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    async with RawServer(streaming) as proxy:
        monkeypatch.setenv("ALL_PROXY", named.format(port=proxy.port))
        assert UNREACHED == await error_of(open_llm("http://model.test/v1"))
        assert 0 == proxy.connections


@pytest.mark.parametrize("excepted", ["localhost", "*", "other.test,localhost", "LOCALHOST", "localhost:{port}"])
async def test_a_service_that_is_excepted_is_reached_without_the_proxy(
    open_llm: Open, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    async with RawServer(streaming) as server, RawServer(streaming) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", excepted.format(port=server.port))
        assert ["Hi"] == await said(open_llm(server.url))
        assert 0 == proxy.connections


async def test_a_proxy_that_is_not_there_is_no_way(open_llm: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert UNREACHED == await error_of(open_llm("https://model.test/v1"))
