"""The middleware that authenticates: below the routes, on the raw path, before the body is read."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from application.ports.history import HistoryUnavailable
from domain.errors import ChatError, TooManyAttempts
from domain.principal import Principal
from entrypoints.http.auth import Authentication, client_address
from entrypoints.http.middleware import RequestContext
from tests.harness.credentials import ANN, SERVICE, KnownCredentials

OPEN = ("/livez", "/readyz", "/api/health", "/docs", "/openapi.json")
PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]

WITHOUT_A_CREDENTIAL: Sequence[Sequence[tuple[str, str]]] = (
    [],
    [("authorization", "")],
    [("authorization", "Bearer")],
    [("authorization", "Bearer ")],
    [("authorization", "Basic YW5uOnNlY3JldA==")],
    [("authorization", "ann-token")],
    [("authorization", "Token ann-token")],
    [("authorization", "Bearerann-token")],
    [("authorization", "Bearer unknown")],
    [("authorization", "Bearer ann-token, Bearer ann-token")],
    [("authorization", "Bearer änn-token")],
    [("authorization", "Bearer ann-token\x00")],
    [("x-api-key", "")],
    [("x-api-key", "unknown")],
    [("x-api-key", "ann-token")],
    [("x-api-key", "Bearer ck_key1_secret")],
    [("cookie", "authorization=Bearer ann-token")],
    [("proxy-authorization", "Bearer ann-token")],
    [("x-user", "ann"), ("x-forwarded-user", "ann"), ("x-role", "admin")],
)


class Exchange:
    """One request through the middleware, which must not read the body."""

    def __init__(self, authenticate: Any = None, trusted_proxies: Any = ()) -> None:
        self.authenticate = authenticate or KnownCredentials()
        self.principal: Principal | None = None
        self.reached = False
        self.sent: list[Message] = []
        guarded = Authentication(self._app, self.authenticate, open_paths=OPEN, trusted_proxies=trusted_proxies)
        self._guarded = RequestContext(guarded)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached = True
        self.principal = scope["state"].get("principal")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def request(
        self, headers: Sequence[tuple[str, str]] = (), path: str = "/api/chat", query: bytes = b"", **changes: Any
    ) -> int:
        async def receive() -> Message:
            pytest.fail("the body was read")

        async def send(message: Message) -> None:
            self.sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": ("192.0.2.1", 1234),
            **changes,
        }
        await self._guarded(scope, receive, send)
        return int(self.sent[0]["status"])

    def header(self, name: str) -> str | None:
        found = dict(self.sent[0]["headers"]).get(name.encode())
        return None if found is None else found.decode()


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ([("authorization", "Bearer ann-token")], ANN),
        ([("authorization", "bearer ann-token")], ANN),
        ([("authorization", "BEARER   ann-token ")], ANN),
        ([("authorization", "Bearer ck_key1_secret")], SERVICE),
        ([("x-api-key", "ck_key1_secret")], SERVICE),
    ],
)
async def test_the_principal_of_a_credential_sends_the_request(headers: Any, principal: Principal) -> None:
    exchange = Exchange()

    assert await exchange.request(headers) == 200
    assert exchange.principal == principal


async def test_every_cause_gets_the_same_401() -> None:
    answers = set()
    for headers in WITHOUT_A_CREDENTIAL:
        exchange = Exchange()
        status = await exchange.request([*headers, ("x-request-id", "same")])
        answers.add((status, exchange.header("www-authenticate"), exchange.sent[1]["body"]))
        assert not exchange.reached

    [(status, challenge, body)] = answers
    assert (status, challenge) == (401, "Bearer")
    assert b'"code":"unauthenticated"' in body


async def test_a_credential_in_the_query_does_not_count() -> None:
    for query in (b"token=ann-token", b"access_token=ann-token", b"api_key=ck_key1_secret", b"authorization=ann-token"):
        assert await Exchange().request(query=query) == 401


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer ann-token"), ("x-api-key", "ck_key1_secret")],
        [("x-api-key", "ck_key1_secret"), ("authorization", "Bearer ck_key1_secret")],
        [("authorization", "Bearer ann-token"), ("authorization", "Bearer ben-token")],
        [("x-api-key", "ck_key1_secret"), ("x-api-key", "ck_key1_secret")],
        [("authorization", ""), ("x-api-key", "")],
    ],
)
async def test_several_credentials_are_refused_without_trying_one(headers: Any) -> None:
    exchange = Exchange()

    assert await exchange.request(headers) == 400
    assert b'"code":"ambiguous_credentials"' in exchange.sent[1]["body"]
    assert (exchange.reached, exchange.authenticate.addresses) == (False, [])


@pytest.mark.parametrize("path", OPEN)
async def test_an_open_path_needs_no_credential_and_has_no_principal(path: str) -> None:
    exchange = Exchange()

    assert await exchange.request([("authorization", "Bearer unknown")], path) == 200
    assert exchange.principal is None


@pytest.mark.parametrize(
    "raw",
    [
        b"/api/health/detailed",
        b"/livez/",
        b"//livez",
        b"/livez/../api/chat",
        b"/api/chat/../../livez",
        b"/%6Civez",
        b"/livez%2F..%2Fapi%2Fchat",
        b"/livez;/api/chat",
        b"/LIVEZ",
        b"/docs/x",
        b"",
        None,
    ],
)
async def test_the_raw_path_decides_and_not_what_others_make_of_it(raw: bytes | None) -> None:
    assert await Exchange().request(path="/livez", raw_path=raw) == 401


@pytest.mark.parametrize(
    "host",
    ["localhost", "evil/?", "evil/#", "x/livez", "x/livez?", "x/livez#", "/livez", "?/livez", "localhost/api/health"],
)
async def test_the_host_decides_nothing(host: str) -> None:
    assert await Exchange().request([("host", host)]) == 401
    assert await Exchange().request([("host", host), ("authorization", "Bearer ann-token")]) == 200
    assert await Exchange().request([("host", host)], "/livez") == 200


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [(TooManyAttempts(retry_after=7), 429, "7"), (HistoryUnavailable(), 503, "1")],
)
async def test_other_failures_to_authenticate_have_their_own_status(
    error: ChatError, status: int, retry_after: str
) -> None:
    async def fail(token: str, address: str) -> Principal:
        raise error

    exchange = Exchange(fail)

    assert await exchange.request([("authorization", "Bearer x")]) == status
    assert (exchange.header("retry-after"), exchange.reached) == (retry_after, False)


async def test_the_middleware_is_not_on_the_way_of_the_response() -> None:
    """So authentication costs nothing per chunk."""
    seen: list[Send] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(send)

    async def send(message: Message) -> None: ...

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "raw_path": b"/", "headers": [(b"x-api-key", b"ck_key1_secret")], "state": {}}
    await Authentication(app, KnownCredentials(), open_paths=())(scope, receive, send)

    assert seen == [send]


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.0.0.1", ["10.1.1.1, 10.9.9.9"], "10.1.1.1"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["unknown, 10.9.9.9"], "10.9.9.9"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1%any text", "10.9.9.9"], "2001:db8::1"),
        ("not an address", ["198.51.100.7"], "not an address"),
    ],
)
def test_only_what_trusted_proxies_have_written_counts_as_the_address(
    client: str, forwarded: list[str], address: str
) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]

    assert client_address({"type": "http", "client": (client, 1), "headers": headers}, PROXIES) == address


def test_without_trusted_proxies_the_connection_has_the_address() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.7")]

    assert client_address({"type": "http", "client": ("10.0.0.1", 1), "headers": headers}, ()) == "10.0.0.1"
    assert client_address({"type": "http", "client": None, "headers": headers}, ()) == ""


async def test_the_address_is_passed_on() -> None:
    exchange = Exchange(trusted_proxies=[ip_network("192.0.2.0/24")])
    await exchange.request([("x-api-key", "ck_unknown"), ("x-forwarded-for", "198.51.100.7")])

    assert exchange.authenticate.addresses == ["198.51.100.7"]
