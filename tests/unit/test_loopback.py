"""Without authentication, only requests from this machine are served, and none that a proxy or a foreign page sent."""

from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from domain.principal import ANONYMOUS
from entrypoints.http.auth import NoAuthentication
from entrypoints.http.loopback import is_local
from entrypoints.http.middleware import RequestContext

LOCAL = ("localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]")
FOREIGN = (
    "",
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.localhost",
    "localhost.",
    "evillocalhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "[::]",
    "192.168.0.1",
    "[fe80::1]",
    "::1",
    "[::1",
    "localhost:80:80",
    "localhost:x",
    "localhost/?",
    "localhost/#",
    "localhost?",
    "localhost#evil.example",
    "localhost@evil.example",
    "evil.example@localhost",
    "evil.example, localhost",
    "localhost, evil.example",
    "localhost evil.example",
    "localhost\tx",
    "localhost\x00",
    "http://localhost",
    "localhost\\evil.example",
    "localhost%00.evil.example",
    "ⓛocalhost",
    "127.0.0.١",
)


def scope(*headers: tuple[str, str], **changes: Any) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": "/api/health",
        "raw_path": b"/api/health",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 40_000),
        **changes,
    }


@pytest.mark.parametrize("host", LOCAL)
@pytest.mark.parametrize("port", ["", ":80", ":8000", ":65535"])
def test_a_direct_request_to_a_loopback_name_is_local(host: str, port: str) -> None:
    assert is_local(scope(("host", host + port)))


@pytest.mark.parametrize("host", FOREIGN)
def test_a_request_to_any_other_name_is_not_local(host: str) -> None:
    assert not is_local(scope(("host", host)))


@given(st.text(max_size=30))
def test_whatever_is_added_to_a_loopback_name_it_is_no_other_site(text: str) -> None:
    """A browser that goes to a name which is_local accepts has really connected to this machine."""
    for host in (f"localhost{text}", f"{text}localhost", f"127.0.0.1{text}", f"{text}127.0.0.1", text):
        if is_local(scope(("host", host))):
            name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
            assert name.lower() == "localhost" or name.startswith(("127.", "[")), host


@pytest.mark.parametrize(
    "headers", [[], [("host", "localhost"), ("host", "localhost")], [("host", "localhost"), ("host", "x")]]
)
def test_a_request_needs_exactly_one_host(headers: list[tuple[str, str]]) -> None:
    assert not is_local(scope(*headers))


@pytest.mark.parametrize(
    "name",
    [
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-x"),
        *("x-real-ip", "via"),
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "", "for=127.0.0.1"])
def test_a_forwarded_request_is_not_local(name: str, value: str) -> None:
    assert not is_local(scope(("host", "localhost"), (name, value)))
    assert not is_local(scope((name, value), ("host", "localhost")))


@pytest.mark.parametrize("end", ["server", "client"])
@pytest.mark.parametrize(
    "address",
    [None, ("192.168.0.1", 80), ("0.0.0.0", 80), ("fe80::1", 80), ("localhost", 80), ("/run/chat.sock", None)],
)
def test_both_ends_of_the_connection_have_to_be_loopback_addresses(end: str, address: Any) -> None:
    assert not is_local(scope(("host", "localhost"), **{end: address}))


@pytest.mark.parametrize("address", [("::1", 80), ("::ffff:127.0.0.1", 80), ("127.255.255.254", 80)])
def test_every_loopback_address_is_local(address: Any) -> None:
    assert is_local(scope(("host", "localhost"), server=address, client=address))


async def served(local_only: bool, host: str, path: str = "/api/health") -> httpx2.Response:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["state"]["principal"] == ANONYMOUS
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx2.ASGITransport(RequestContext(NoAuthentication(app, local_only=local_only)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(path, headers={"Host": host})


async def test_a_request_that_is_not_local_is_refused_as_not_configured() -> None:
    response = await served(True, "evil.example")

    assert (response.status_code, response.json()["code"]) == (403, "auth_not_configured")
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/api/health", "/nothing"])
async def test_no_path_is_exempt(path: str) -> None:
    assert (await served(True, "evil.example", path)).status_code == 403


async def test_a_local_request_is_served() -> None:
    assert (await served(True, "localhost:8000")).status_code == 204


async def test_every_request_is_served_if_the_operator_has_said_so() -> None:
    assert (await served(False, "evil.example")).status_code == 204
