"""What authentication costs per request, in microseconds, beside the rest of the work of a request.

    python -m tests.bench.authentication [--requests 3000]

It costs nothing per chunk: the middleware is not on the way of the response.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.api_key import ID_BYTES, SECRET_BYTES, APIKey, digest_of, text_of
from domain.principal import ANONYMOUS, Principal, Role
from entrypoints.http.auth import Authentication, NoAuthentication
from entrypoints.http.policies import Policy, check_body, check_request
from tests.harness.credentials import authentication
from tests.harness.servers import service_in_process
from tests.harness.tokens import token

ROUNDS: Final = 5
HEADERS: Final = [
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"python-requests/2.34"),
    (b"accept", b"*/*"),
    (b"content-length", b"60"),
]


async def _app(scope: Scope, receive: Receive, send: Send) -> None: ...


async def _receive() -> Message:
    return {"type": "http.disconnect"}


async def _send(message: Message) -> None: ...


async def _per_request(app: ASGIApp, requests: int, *headers: tuple[bytes, bytes]) -> float:
    """Return the microseconds of one request, the best of several rounds."""
    loopback = ("127.0.0.1", 8000)
    rounds = []
    for _ in range(ROUNDS):
        scopes = [
            {
                "type": "http",
                "raw_path": b"/api/chat",
                "headers": [*HEADERS, *headers],
                "server": loopback,
                "client": loopback,
                "state": {"request_id": "x"},
            }
            for _ in range(requests)
        ]
        started = perf_counter()
        for scope in scopes:
            await app(scope, _receive, _send)
        rounds.append((perf_counter() - started) / requests * 1e6)
    return min(rounds)


def _per_call(function: Callable[[], Any], calls: int) -> float:
    rounds = []
    for _ in range(ROUNDS):
        started = perf_counter()
        for _ in range(calls):
            function()
        rounds.append((perf_counter() - started) / calls * 1e6)
    return min(rounds)


def _check(scope: Scope, body: Any) -> None:
    check_request(Policy.OWNER_IN_PATH, scope)
    check_body(Policy.OWNER_IN_BODY, scope, body)


async def measure(requests: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        stores: dict[str, Any] = {"history_backend": "sql", "memory_backend": "sql", "data_dir": Path(directory)}
        async with service_in_process(**stores, **authentication("api_key+jwt")) as service:
            secret, key_id = "a" * 2 * SECRET_BYTES, "a" * 2 * ID_BYTES
            await service.container.api_keys().create(
                APIKey(key_id, digest_of(secret), Role.SERVICE, datetime.now(UTC))
            )
            guarded = Authentication(_app, service.container.authenticate(), open_paths=())
            key = (b"x-api-key", text_of(key_id, secret).encode())
            user = (b"authorization", b"Bearer " + token().encode())
            nothing = await _per_request(_app, requests)
            found = {
                "none, loopback only": await _per_request(NoAuthentication(_app, local_only=True), requests) - nothing,
                "API key (SQLite)": await _per_request(guarded, requests, key) - nothing,
                "token (HS256)": await _per_request(guarded, requests, user) - nothing,
            }
    for name, principal in (("anonymous", ANONYMOUS), ("user", Principal(Role.USER, "ann"))):
        scope = {"state": {"principal": principal}, "path_params": {"user_id": "ann"}}
        found[f"policy, path and body, {name}"] = _per_call(partial(_check, scope, {"user_id": "ann"}), requests)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3_000, help="per round (default: %(default)s)")
    for name, microseconds in asyncio.run(measure(parser.parse_args().requests)).items():
        print(f"  {name:32} {microseconds:7.1f} µs")


if __name__ == "__main__":
    main()
