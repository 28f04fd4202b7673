"""Plain uvicorn has none of the limits on connections of `smart-chatbot serve`; Caddy in front of it has some."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from tests.harness.caddy import caddy, free_port
from tests.harness.malformed_requests import GET
from tests.harness.raw_client import RawClient
from tests.harness.servers import NOBODY, ROOT, service_process
from tests.harness.tokens import AUDIENCE, ISSUER, SECRET

UVICORN = ("-m", "uvicorn", "entrypoints.asgi:app", "--host", "127.0.0.1", "--port", "0")


async def is_closed_within(seconds: float, client: RawClient) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await client.closed()
    except TimeoutError:
        return False
    return True


async def test_a_proxy_limits_what_plain_uvicorn_does_not(tmp_path: Path) -> None:
    site = f"http://127.0.0.1:{free_port()}"
    caddyfile = (ROOT / "deploy/Caddyfile").read_text("utf-8")
    shorter = caddyfile.replace("read_header 10s", "read_header 1s").replace("idle 75s", "idle 1s")
    assert shorter.count(" 1s") == caddyfile.count(" 1s") + 2
    async with service_process(
        directory=tmp_path,
        command=UVICORN,
        OPENAI_BASE_URL=NOBODY,
        AUTH_JWT_SECRET=SECRET,  # without authentication, no proxy may be in front
        AUTH_ISSUER=ISSUER,
        AUTH_AUDIENCE=AUDIENCE,
        HEAD_TIMEOUT="1",
    ) as service:
        alone = await limits_of(service.url)
        behind = caddy(shorter, site, tmp_path, SITE=site, UPSTREAMS=urlsplit(service.url).netloc)
        async with behind:
            proxied = await limits_of(site)

    assert alone == (200, False, False)
    assert proxied == (431, True, True)


async def limits_of(url: str) -> tuple[int, bool, bool]:
    """Return how two megabytes of headers are answered, and whether half a head and silence are cut off."""
    async with RawClient(url) as silent, RawClient(url) as half, RawClient(url) as large:
        half.send(GET)
        large.send(GET + b"X: " + b"x" * 2_000_000 + b"\r\n\r\n")
        return await large.head(), await is_closed_within(4, half), await is_closed_within(1, silent)
