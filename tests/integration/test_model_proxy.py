"""TLS and proxies between the adapter and a model's service, on both event loops."""

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
from application.ports.llm import LLMDisconnected, LLMError, LLMNotConnectable, LLMUnreachable
from domain.conversation import Message, Role
from tests.harness.cancelling import cancelled_when
from tests.harness.raw_server import Call, Play, RawServer

EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)
UNREACHABLE = (LLMUnreachable, True)
NOT_CONNECTABLE = (LLMNotConnectable, False)
TIMEOUT = 5

OpenLLM = Callable[[str], LLMOpenAI]
Ending = Callable[[Call], Awaitable[None]]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("nothing_is_left_behind", "no_proxy_of_this_machine"),
]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
def certificate_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted_authority(certificate_authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate_authority.cert_pem.write_to_path(tmp_path / "certificate_authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate_authority.pem"))


@pytest.fixture(scope="module")
def server_context(certificate_authority: trustme.CA) -> ssl.SSLContext:
    return server_context_of(certificate_authority)


def server_context_of(certificate_authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate_authority.issue_cert("localhost", "model.test").configure_cert(context)
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


async def error_of(llm: LLMOpenAI) -> tuple[type[LLMError], bool]:
    with pytest.raises(LLMError) as raised:
        await deltas_of(llm)
    return type(raised.value), raised.value.repeatable


async def respond_to_each(call: Call) -> None:
    while True:
        await call.request()
        await call.send(STREAM)


async def respond_once(call: Call) -> None:
    await call.request()
    await call.send(STREAM.replace(b"Content-Length", b"Connection: close\r\nContent-Length"))


def tunnel_to(service: RawServer) -> Play:
    """Open each tunnel to this service, regardless of its target."""

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


def headers_of(head: bytes) -> dict[str, str]:
    """The headers of a request, by names in lower case."""
    lines = head.decode().split("\r\n")[1:-2]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def basic(user: str) -> str:
    return f"Basic {b64encode(user.encode()).decode()}"


@pytest.mark.usefixtures("trusted_authority")
async def test_a_reply_over_tls(open_llm: OpenLLM, server_context: ssl.SSLContext) -> None:
    async with RawServer(respond_to_each, secure=server_context) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 3 == [await deltas_of(llm) for _ in range(3)]
        assert 1 == server.connections


@pytest.mark.usefixtures("trusted_authority")
async def test_a_certificate_for_another_name_is_rejected(open_llm: OpenLLM, server_context: ssl.SSLContext) -> None:
    async with RawServer(respond_to_each, secure=server_context) as server:
        assert NOT_CONNECTABLE == await error_of(open_llm(f"https://127.0.0.1:{server.port}"))
        assert [] == server.requests


@pytest.mark.usefixtures("trusted_authority")
async def test_an_unknown_authority_is_rejected(open_llm: OpenLLM) -> None:
    async with RawServer(respond_to_each, secure=server_context_of(trustme.CA())) as server:
        assert NOT_CONNECTABLE == await error_of(open_llm(server.url))
        assert [] == server.requests


@pytest.mark.usefixtures("trusted_authority")
async def test_a_service_without_tls_is_rejected(open_llm: OpenLLM) -> None:
    async def play(call: Call) -> None:
        await call.send(STREAM)
        await call.left()

    async with RawServer(play) as server:
        assert NOT_CONNECTABLE == await error_of(open_llm(f"https://localhost:{server.port}"))


@pytest.mark.usefixtures("trusted_authority")
async def test_the_connect_timeout_covers_the_handshake(open_llm: OpenLLM) -> None:
    async with RawServer(Call.left) as server:
        assert UNREACHABLE == await error_of(open_llm(f"https://localhost:{server.port}"))
        await server.all_closed()


@pytest.mark.usefixtures("trusted_authority")
async def test_cancelling_the_handshake_closes_the_connection(open_llm: OpenLLM) -> None:
    async with RawServer(Call.left) as server:
        await cancelled_when(lambda: server.connections, deltas_of, open_llm(f"https://localhost:{server.port}"))
        await server.all_closed()


async def cancelled_after(turns: int, llm: LLMOpenAI) -> None:
    task = asyncio.create_task(deltas_of(llm))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize("turns", range(16))
async def test_the_next_call_succeeds_after_a_cancellation_at_any_moment(
    open_llm: OpenLLM, server_context: ssl.SSLContext, turns: int
) -> None:
    async with RawServer(respond_once, secure=server_context) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await deltas_of(llm)
        await cancelled_after(turns, llm)
        assert ["Hi"] == await deltas_of(llm)
        await server.all_closed()


async def end(call: Call) -> None:
    call.writer.close()


async def reset(call: Call) -> None:
    call.reset()


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_tls_connection_that_was_closed_while_idle_is_not_reused(
    open_llm: OpenLLM, server_context: ssl.SSLContext, ending: Ending
) -> None:
    read = asyncio.Event()

    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM)
        await read.wait()
        await ending(call)

    async with RawServer(play, secure=server_context) as server:
        llm = open_llm(server.url)
        assert ["Hi"] == await deltas_of(llm)
        read.set()
        await server.all_closed()
        assert ["Hi"] == await deltas_of(llm)
        assert 2 == server.connections


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_request_on_a_stale_tls_connection_is_sent_again_on_a_new_one(
    open_llm: OpenLLM, server_context: ssl.SSLContext, ending: Ending
) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM)
        await call.request()
        await ending(call)

    async with RawServer(play, secure=server_context) as server:
        llm = open_llm(server.url)
        assert [["Hi"]] * 2 == [await deltas_of(llm) for _ in range(2)]
        assert (2, 3) == (server.connections, len(server.requests))


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_tls_connection_that_breaks_within_the_response_is_an_error(
    open_llm: OpenLLM, server_context: ssl.SSLContext, ending: Ending
) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM[:-40])
        await ending(call)

    async with RawServer(play, secure=server_context) as server:
        assert (LLMDisconnected, False) == await error_of(open_llm(server.url))


async def test_a_proxy_receives_the_absolute_url(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(respond_to_each) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert ["Hi"] == await deltas_of(open_llm("http://us:pw@model.test:81/v1"))
        assert proxy.requests[0].startswith(b"POST http://model.test:81/v1/chat/completions HTTP/1.1\r\n")
        assert headers_of(proxy.requests[0])["host"] == "model.test:81"
        assert "proxy-authorization" not in headers_of(proxy.requests[0])


async def test_a_service_receives_the_path(open_llm: OpenLLM) -> None:
    async with RawServer(respond_to_each) as server:
        assert ["Hi"] == await deltas_of(open_llm(f"{server.url}/v1"))
        assert server.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


async def test_an_ipv6_host_is_in_brackets(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(respond_to_each) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert ["Hi"] == await deltas_of(open_llm("http://[::1]:81/v1"))
        assert proxy.requests[0].startswith(b"POST http://[::1]:81/v1/chat/completions HTTP/1.1\r\n")
        assert headers_of(proxy.requests[0])["host"] == "[::1]:81"


async def test_a_proxy_receives_its_credentials(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(respond_to_each) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://us%40er:p%3Aw%2Fd@localhost:{proxy.port}")
        assert ["Hi"] == await deltas_of(open_llm("http://model.test/v1"))
        assert basic("us@er:p:w/d") == headers_of(proxy.requests[0])["proxy-authorization"]


async def test_a_proxy_needs_no_scheme(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(respond_to_each) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"us:pw@localhost:{proxy.port}")
        assert ["Hi"] == await deltas_of(open_llm("http://model.test/v1"))
        assert basic("us:pw") == headers_of(proxy.requests[0])["proxy-authorization"]


@pytest.mark.usefixtures("trusted_authority")
async def test_a_tunnel_to_a_tls_service(
    open_llm: OpenLLM, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(respond_to_each, secure=server_context) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://us%40er:pw@localhost:{proxy.port}")
        llm = open_llm("https://model.test:81/v1")
        assert [["Hi"]] * 3 == [await deltas_of(llm) for _ in range(3)]
        (connect,) = proxy.requests
        assert connect.startswith(b"CONNECT model.test:81 HTTP/1.1\r\n")
        assert basic("us@er:pw") == headers_of(connect)["proxy-authorization"]
        assert b"sk-test" not in connect
        assert service.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert "proxy-authorization" not in headers_of(service.requests[0])


@pytest.mark.usefixtures("trusted_authority")
async def test_a_tunnel_through_a_tls_proxy(
    open_llm: OpenLLM, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        RawServer(respond_to_each, secure=server_context) as service,
        RawServer(tunnel_to(service), secure=server_context) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        llm = open_llm("https://model.test:81/v1")
        assert [["Hi"]] * 3 == [await deltas_of(llm) for _ in range(3)]
        assert 1 == proxy.connections
        assert "proxy-authorization" not in headers_of(proxy.requests[0])
        assert b"sk-test" not in proxy.requests[0]


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize("ending", [end, reset])
async def test_a_tunnel_that_was_closed_while_idle_is_not_reused(
    open_llm: OpenLLM, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, ending: Ending
) -> None:
    read = asyncio.Event()

    async def play(call: Call) -> None:
        await call.request()
        await call.send(STREAM)
        await read.wait()
        await ending(call)

    async with RawServer(play, secure=server_context) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        llm = open_llm("https://model.test:81/v1")
        assert ["Hi"] == await deltas_of(llm)
        read.set()
        await proxy.all_closed()
        assert ["Hi"] == await deltas_of(llm)
        assert 2 == proxy.connections


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (b"407 Proxy Authentication Required", NOT_CONNECTABLE),
        (b"403 Forbidden", NOT_CONNECTABLE),
        (b"429 Too Many Requests", UNREACHABLE),
        (b"502 Bad Gateway", UNREACHABLE),
        (b"302 Found", UNREACHABLE),
    ],
)
async def test_a_refused_tunnel_makes_the_service_unreachable(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, status: bytes, error: tuple[type[LLMError], bool]
) -> None:
    sent_on = []

    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 %b\r\nContent-Length: 6\r\n\r\nsecret" % status)
        sent_on.append(await call.reader.read(1))

    async with RawServer(play) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert error == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()
        assert [b""] == sent_on


async def test_a_proxy_that_refuses_a_plain_request_makes_the_service_unreachable(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async with RawServer(play) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert (LLMNotConnectable, False) == await error_of(open_llm("http://model.test/v1"))


SQUID_PAGE = b"<html><head><title>ERROR: The requested URL could not be retrieved</title></head></html>"


def answer_of_proxy(status: str, headers: str, body: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.request()
        await call.send(f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n".encode() + body)

    return play


@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "detail", "cause_detail"),
    [
        ("502 Bad Gateway", "Content-Type: text/html\r\n", SQUID_PAGE, "upstream_error",
         "The model's service, or the proxy before it, answered 502", "may have answered instead of the service"),
        ("504 Gateway Timeout", "", b"", "upstream_timeout",
         "The model's service, or the proxy before it, answered 504", "may have answered instead of the service"),
        ("503 Service Unavailable", "X-Squid-Error: ERR_DNS_FAIL 0\r\n", SQUID_PAGE, "upstream_error",
         "The proxy answered 503 instead", "answered instead of the service: ERR_DNS_FAIL 0"),
        ("403 Forbidden", "X-Squid-Error: ERR_ACCESS_DENIED 0\r\n", SQUID_PAGE, "upstream_error",
         "The proxy answered 403 instead", "answered instead of the service: ERR_ACCESS_DENIED 0"),
        ("502 Bad Gateway", "Proxy-Status: squid; error=connection_refused\r\n", b'{"message": "no"}', "upstream_error",
         "The proxy answered 502 instead", "answered instead of the service: squid; error=connection_refused"),
    ],
)  # fmt: skip
async def test_a_page_instead_of_an_api_may_be_from_the_proxy(
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    headers: str,
    body: bytes,
    code: str,
    detail: str,
    cause_detail: str,
) -> None:
    async with RawServer(answer_of_proxy(status, headers, body)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(LLMError) as raised:
            await deltas_of(open_llm("http://model.test/v1"))
    error = raised.value
    assert error.code == code
    assert error.detail.startswith(detail)
    assert "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY" in error.detail
    assert (error.diagnosis["cause"], error.diagnosis["cause_detail"]) == ("proxy", cause_detail)
    assert error.diagnosis["proxy"] == f"localhost:{proxy.port}"


ERROR_OF_AN_API = b'{"error": {"message": "overloaded", "type": "server_error"}}'


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        ("503 Service Unavailable", "Via: 1.1 squid\r\nContent-Type: application/json\r\n", ERROR_OF_AN_API),
        ("404 Not Found", "Via: 1.1 squid\r\n", b"404 page not found"),
    ],
)
async def test_the_answer_of_an_api_behind_a_proxy_is_the_services(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, status: str, headers: str, body: bytes
) -> None:
    async with RawServer(answer_of_proxy(status, headers, body)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(LLMError) as raised:
            await deltas_of(open_llm("http://model.test/v1"))
    assert "cause" not in raised.value.diagnosis
    assert "PROXY" not in raised.value.detail


async def test_a_page_without_a_proxy_is_the_services(open_llm: OpenLLM) -> None:
    async with RawServer(answer_of_proxy("502 Bad Gateway", "", SQUID_PAGE)) as server:
        with pytest.raises(LLMError) as raised:
            await deltas_of(open_llm(server.url))
    assert "cause" not in raised.value.diagnosis
    assert "PROXY" not in raised.value.detail


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


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize("play", [garbage, nothing, silence, an_end, surplus])
async def test_a_proxy_that_fails_makes_the_service_unreachable(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, play: Play
) -> None:
    async with RawServer(play) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert UNREACHABLE == await error_of(open_llm("https://model.test/v1"))
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


@pytest.mark.usefixtures("trusted_authority")
@pytest.mark.parametrize(
    ("play", "error"),
    [
        (nothing, UNREACHABLE),
        (an_end, UNREACHABLE),
        (an_end_within_tls, UNREACHABLE),
        (no_tls, NOT_CONNECTABLE),
    ],
)
async def test_a_tls_proxy_that_fails_makes_the_service_unreachable(
    open_llm: OpenLLM,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    play: Play,
    error: tuple[type[LLMError], bool],
) -> None:
    # asyncio reports a failed TLS handshake within TLS to the loop's exception handler as well.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with RawServer(play, secure=server_context) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert error == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()


@pytest.mark.usefixtures("trusted_authority")
async def test_a_service_behind_a_proxy_needs_a_certificate(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = server_context_of(trustme.CA())
    async with RawServer(respond_to_each, secure=forged) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert NOT_CONNECTABLE == await error_of(open_llm("https://model.test/v1"))
        await proxy.all_closed()
        assert [] == service.requests


@pytest.mark.usefixtures("trusted_authority")
async def test_cancelling_a_tunnel_closes_the_connection(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(Call.left) as service, RawServer(tunnel_to(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        await cancelled_when(lambda: service.connections, deltas_of, open_llm("https://model.test/v1"))
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
async def test_an_invalid_proxy_makes_the_service_unreachable(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert NOT_CONNECTABLE == await error_of(open_llm("http://model.test/v1"))


@pytest.mark.parametrize("named", ["socks5://localhost:{port}", "socks5h://localhost:{port}", ":{port}"])
async def test_nothing_is_sent_to_a_proxy_of_another_kind_or_without_host(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    async with RawServer(respond_to_each) as proxy:
        monkeypatch.setenv("ALL_PROXY", named.format(port=proxy.port))
        assert NOT_CONNECTABLE == await error_of(open_llm("http://model.test/v1"))
        assert 0 == proxy.connections


@pytest.mark.parametrize("excluded", ["localhost", "*", "other.test,localhost", "LOCALHOST", "localhost:{port}"])
async def test_no_proxy_excludes_the_service(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, excluded: str) -> None:
    async with RawServer(respond_to_each) as server, RawServer(respond_to_each) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", excluded.format(port=server.port))
        assert ["Hi"] == await deltas_of(open_llm(server.url))
        assert 0 == proxy.connections


async def test_a_proxy_that_is_down_makes_the_service_unreachable(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert UNREACHABLE == await error_of(open_llm("https://model.test/v1"))


async def test_a_proxy_that_does_not_connect_in_time_is_named(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(call: Call) -> None:
        await call.request()
        await call.reader.read(1)

    async with RawServer(play) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(LLMUnreachable, match="No connection through the proxy in time: check HTTP_PROXY") as raised:
            await deltas_of(open_llm("https://model.test/v1"))
    diagnosis = raised.value.diagnosis
    assert (diagnosis["cause"], diagnosis["cause_detail"]) == ("proxy", "connect timeout")
    assert diagnosis["proxy"] == f"localhost:{proxy.port}"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_whose_name_cannot_be_resolved_is_named(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://us:canary@no-such-proxy.invalid:3128")
    with pytest.raises(LLMUnreachable, match="host name of the proxy cannot be resolved: check HTTP_PROXY") as raised:
        await deltas_of(open_llm(f"{scheme}://model.test/v1"))
    assert (raised.value.diagnosis["cause"], raised.value.diagnosis["cause_detail"]) == ("proxy", "dns")
    assert "canary" not in str(raised.value.diagnosis)


@pytest.mark.usefixtures("trusted_authority")
async def test_a_tls_proxy_needs_a_certificate_and_is_named(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = server_context_of(trustme.CA())
    async with RawServer(Call.left, secure=forged) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(LLMError) as failed:
            await deltas_of(open_llm("https://model.test/v1"))
    assert failed.value.detail.startswith(
        "The certificate of the proxy is not trusted: check SSL_CERT_FILE, or check HTTP_"
    )
    assert "OPENAI_BASE_URL" not in failed.value.detail


@pytest.mark.usefixtures("trusted_authority")
async def test_a_tls_proxy_that_is_none_is_named(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def speak_first(call: Call) -> None:
        await call.send(b"220 ready\r\n")
        await call.left()

    async with RawServer(speak_first) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "https://"))
        with pytest.raises(LLMError) as failed:
            await deltas_of(open_llm("https://model.test/v1"))
    assert failed.value.detail == (
        "The TLS connection to the proxy failed: check whether the URL of the proxy is http or https."
    )


@pytest.mark.usefixtures("trusted_authority")
async def test_a_service_with_a_forged_certificate_behind_a_tls_proxy_is_not_confused_with_the_proxy(
    open_llm: OpenLLM, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    forged = server_context_of(trustme.CA())
    async with (
        RawServer(respond_to_each, secure=forged) as service,
        RawServer(tunnel_to(service), secure=server_context) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(LLMError) as failed:
            await deltas_of(open_llm("https://model.test/v1"))
    assert failed.value.detail.startswith("The certificate of the model's service is not trusted")
