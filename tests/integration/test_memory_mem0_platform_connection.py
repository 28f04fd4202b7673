"""Mem0's hosted platform that cannot be reached: every place that reports it names the cause and the setting."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from adapters.memory_mem0_platform import MemoryMem0Platform
from application.ports.memory import MemoryNotReady, MemoryUnavailable
from domain.conversation import UserId
from tests.harness.fakes import ScriptedLLM
from tests.harness.raw_server import Call, RawServer
from tests.harness.servers import running_service
from tests.harness.service_log import ServiceLog

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_proxy_of_this_machine")]

ADA = UserId("ada")
KEY = "m0-canary"
REFUSED = "The memory platform refuses connections; check the host and port of MEM0_HOST."
PROXY = (
    "The proxy does not connect to the memory platform; check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, or the "
    "host of MEM0_HOST."
)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def url_of(server: RawServer, scheme: str = "http", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{host}:{server.port}"


def responding(response: bytes) -> Any:
    async def respond(call: Call) -> None:
        await call.head()
        await call.send(response)

    return respond


async def reason(directory: Path, host: str) -> MemoryUnavailable:
    """Return the error of a recall; its detail must be that of the line that is logged at the start."""
    with capture_logs() as lines:
        async with MemoryMem0Platform(
            api_key=KEY, host=host, data_dir=directory, now=lambda: datetime.now(UTC), connect_timeout=1
        ) as memory:
            with pytest.raises(MemoryUnavailable) as raised:
                await memory.recall(ADA, "tea", 3)
    assert [("memory not ready", raised.value.detail)] == [(line["event"], line["reason"]) for line in lines]
    assert "canary" not in f"{lines} {raised.value} {raised.value.__cause__}"
    return raised.value


async def test_a_platform_that_refuses_connections(tmp_path: Path) -> None:
    assert REFUSED == (await reason(tmp_path, f"http://127.0.0.1:{unused_port()}/canary")).detail


async def test_a_host_name_that_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await reason(tmp_path, "http://canary.test")

    assert error.detail == "The host name of the memory platform cannot be resolved; check MEM0_HOST."
    assert isinstance(error, MemoryNotReady)


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with RawServer(responding(b""), secure=context) as server:
        error = await reason(tmp_path, url_of(server, "https", "localhost"))

    assert error.detail == "The certificate of the memory platform is not trusted; check SSL_CERT_FILE or MEM0_HOST."
    assert isinstance(error, MemoryNotReady)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-x\r\n"])
async def test_a_server_without_tls(greeting: bytes, tmp_path: Path) -> None:
    async def answer_in_plain_text(call: Call) -> None:
        await call.send(greeting)
        await call.reader.read()

    async with RawServer(answer_in_plain_text) as server:
        detail = (await reason(tmp_path, url_of(server, "https"))).detail

    assert detail == "A TLS connection to the memory platform failed; check whether MEM0_HOST is http or https."


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n"])
async def test_a_server_that_does_not_speak_http(answer: bytes, tmp_path: Path) -> None:
    async with RawServer(responding(answer)) as server:
        detail = (await reason(tmp_path, url_of(server))).detail

    assert detail == "The memory platform broke the connection; check whether MEM0_HOST is http or https."


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"200 OK\r\nContent-Type: text/html", "The memory platform's response is not JSON; check MEM0_HOST."),
        (b"302 Found\r\nLocation: /canary", "The memory platform answered 302; check MEM0_HOST."),
        (b"401 Unauthorized", "The memory platform answered 401; check MEM0_API_KEY."),
        (b"404 Not Found", "The memory platform answered 404; check MEM0_HOST."),
    ],
)
async def test_another_service(head: bytes, detail: str, tmp_path: Path) -> None:
    body = b"<html>canary</html>"
    response = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body)
    async with RawServer(responding(response)) as server:
        assert detail == (await reason(tmp_path, url_of(server))).detail


@pytest.mark.parametrize("body", [b'{"status": "ok"}', b"[]", b"1"])
async def test_another_service_that_responds_to_every_path_with_json(body: bytes, tmp_path: Path) -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
    with capture_logs() as lines:
        async with (
            RawServer(responding(response)) as server,
            MemoryMem0Platform(
                api_key=KEY, host=url_of(server), data_dir=tmp_path, now=lambda: datetime.now(UTC)
            ) as memory,
        ):
            with pytest.raises(MemoryNotReady) as raised:
                await memory.check()

    sentence = "The memory platform's response is invalid; check MEM0_HOST."
    assert [("memory not ready", sentence)] == [(line["event"], line["reason"]) for line in lines]
    assert (sentence, False) == (raised.value.detail, raised.value.retryable)


async def test_a_platform_that_does_not_respond(tmp_path: Path) -> None:
    async def hang(call: Call) -> None:
        await call.reader.read()

    with capture_logs() as lines:
        async with (
            RawServer(hang) as server,
            MemoryMem0Platform(
                api_key=KEY,
                host=url_of(server),
                data_dir=tmp_path,
                now=lambda: datetime.now(UTC),
                connect_timeout=0.1,
                request_timeout=0.2,
            ) as memory,
        ):
            with pytest.raises(MemoryUnavailable, match=r"did not respond in time; check MEM0_HOST if this lasts\."):
                await memory.recall(ADA, "tea", 3)

    assert [line["reason"] for line in lines] == [
        "The memory platform has not responded within 0.1 s; check MEM0_HOST."
    ]


async def test_a_proxy_that_refuses_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:canary@127.0.0.1:{unused_port()}")

    assert PROXY == (await reason(tmp_path, "http://mem0.test")).detail


async def test_a_proxy_that_rejects_the_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    response = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with RawServer(responding(response)) as proxy:
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", url_of(proxy))
            error = await reason(tmp_path, f"{scheme}://mem0.test")

            assert (isinstance(error, MemoryNotReady), error.retryable) == (True, False)
            assert error.detail == (
                f"The proxy 127.0.0.1:{proxy.port} refused our credentials (HTTP 407); "
                "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
            )


async def test_a_proxy_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy, words in (
        ("gopher://canary:1", "Proxies of this kind are not supported"),
        ("socks5://canary:1", "SOCKS proxies are not supported"),
    ):
        for variable in ("HTTPS_PROXY", "ALL_PROXY"):
            with monkeypatch.context() as environment:
                environment.setenv(variable, proxy)
                error = await reason(tmp_path, "https://mem0.test")

            assert (isinstance(error, MemoryNotReady), error.retryable) == (True, False)
            assert error.detail.startswith(f"{words}; check {variable}: ")


async def test_certificates_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    error = await reason(tmp_path, "https://mem0.test")

    assert isinstance(error, MemoryNotReady)
    assert "cannot be set up; check MEM0_HOST, HTTPS_PROXY and SSL_CERT_FILE" in error.detail


@asynccontextmanager
async def refused(directory: Path) -> AsyncIterator[Any]:
    async with running_service(
        {"llm": ScriptedLLM()},
        memory_backend="mem0_platform",
        mem0_api_key=KEY,
        mem0_host=f"http://127.0.0.1:{unused_port()}",
        data_dir=directory,
    ) as service:
        yield service


async def test_the_log_of_a_turn_and_health_tell_why_memory_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ServiceLog(capsys)
    async with refused(tmp_path) as service:
        reply = await service.client.post("/api/chat/simple", json={"user_id": "ada", "message": "Hello"})
        listing = await service.client.get("/api/memories/ada")
        health = (await service.client.get("/api/health/detailed")).json()

    assert (reply.status_code, listing.json()["detail"]) == (200, REFUSED)
    assert health["checks"]["memory_detail"] == REFUSED
    assert {(REFUSED, None)} == {(line["detail"], line.get("exception")) for line in log.events("failed")}
    assert "recalling memories" in {line["where"] for line in log.events("failed")}
