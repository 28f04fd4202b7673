"""Whatever is in `Host`: without authentication only loopback names are served, with it the header decides nothing."""

import asyncio
import random
import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.harness.credentials import KnownCredentials, authentication
from tests.harness.fakes import ScriptedLLM
from tests.harness.raw_client import RawClient
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

LOOPBACK: Final = re.compile(
    rb"(localhost|127(\.\d{1,3}){3}|\[[0:]*:0*1\]|\[::ffff:127(\.\d{1,3}){3}\])(:\d{0,5})?", re.I
)
SEEDS: Final = (
    *(b"localhost", b"localhost:8000", b"127.0.0.1", b"127.0.0.1:8000", b"[::1]", b"[::1]:8000", b"evil.example"),
    *(b"localhost.evil.example", b"evil.example:8000", b"127.0.0.1.evil.example", b"0.0.0.0", b"[::]", b"2130706433"),
    *(b"localhost/?", b"localhost/#", b"evil.example/?localhost", b"user@localhost", b"localhost@evil.example"),
    *(b"localhost,evil.example", b"localhost evil.example", b"\xc5\x82ocalhost", b"%6cocalhost", b"", b"localhost."),
    *(b"0x7f.1", b"127.1", b"[::ffff:127.0.0.1]", b"[::ffff:8.8.8.8]", b"localhost:http", b"localhost:99999"),
)


def hosts(count: int) -> Iterator[bytes]:
    """Yield hosts and mutations of them, the same ones in every run. None has a line end."""
    chance = random.Random(1)
    yield from SEEDS
    alphabet = b"/?#@:.[]%,; \tabcLOCALHOST0127f\\x\x7f\xff-_~"
    for _ in range(count - len(SEEDS)):
        host = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(host) + 1)
            host[place : place + chance.randint(0, 2)] = bytes([chance.choice(alphabet)])
        yield bytes(host)


async def status(url: str, path: bytes, host: bytes) -> int:
    async with RawClient(url) as client:
        client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host))
        return await client.head()


async def statuses(url: str, path: bytes, tried: list[bytes]) -> list[int]:
    found = []
    for start in range(0, len(tried), 50):
        batch = (status(url, path, host) for host in tried[start : start + 50])
        found += await asyncio.gather(*batch)
    return found


async def test_without_authentication_only_loopback_names_are_served() -> None:
    tried = list(hosts(500))
    async with running_service({"llm": ScriptedLLM()}) as service:
        found = dict(zip(tried, await statuses(service.url, b"/api/chat/history/ann", tried), strict=True))

    assert set(found.values()) == {200, 400, 403}
    served = {host for host, status in found.items() if status == 200}
    assert {host for host in served if not LOOPBACK.fullmatch(host.strip(b" \t"))} == set()
    assert {b"localhost", b"127.0.0.1:8000", b"[::1]"} <= served


async def test_with_authentication_no_host_opens_a_path_or_closes_one() -> None:
    tried = list(hosts(500))
    async with running_service(
        {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}, **authentication()
    ) as service:
        protected = await statuses(service.url, b"/api/chat/history/ann", tried)
        public = await statuses(service.url, b"/livez", tried)

    assert set(protected) == {400, 401}
    assert set(public) == {400, 200}
    assert [status == 400 for status in protected] == [status == 400 for status in public]
