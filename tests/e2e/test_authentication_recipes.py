"""The recipes of docs/authentication.md work as written, except for names and ports, which are those of the test.

oauth2-proxy is not in Debian: `tests.harness.identity_provider` answers Caddy in its place.
"""

import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.harness.caddy import caddy, free_port
from tests.harness.chat_stream import ChatStream
from tests.harness.commands import run
from tests.harness.exchange import client_of
from tests.harness.forks import Fork, Forks
from tests.harness.identity_provider import IdentityProvider
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ROOT

SECTIONS: Final = {
    title: text
    for title, _, text in (
        section.partition("\n") for section in (ROOT / "docs/authentication.md").read_text("utf-8").split("\n## ")[1:]
    )
}
LOGGED_IN: Final = {"Cookie": "_oauth2_proxy=COOKIE"}
KEYS, TOKENS, PROXY = "Other services, with keys", "A front end with users of its own", "A proxy with a login"


def blocks(section: str, kind: str) -> Sequence[str]:
    """Return the code blocks of a section that are marked as being of a kind."""
    return re.findall(rf"^<!-- {kind} -->\n```\w*\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)


def settings(section: str, names: Mapping[str, str]) -> dict[str, str]:
    [text] = blocks(section, "settings")
    return dict(line.split("=", 1) for line in renamed(text, names).splitlines())


def renamed(text: str, names: Mapping[str, str]) -> str:
    for documented, real in names.items():
        text = text.replace(documented, real)
    return text


@asynccontextmanager
async def service_with(forks: Forks, directory: Path, **variables: str) -> AsyncIterator[Fork]:
    async with (
        ScriptedUpstream() as upstream,
        forks.service(directory, OPENAI_BASE_URL=upstream.base_url, **variables) as service,
    ):
        yield service


async def run_blocks(section: str, names: Mapping[str, str], directory: Path, **variables: str) -> str:
    """Run the commands of a section in one shell, and return their output."""
    script = renamed("".join(blocks(section, "run")), names)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    status, output, errors = await run(
        *("bash", "-euo", "pipefail", "-c", script), directory=directory, PATH=path, **variables
    )
    assert status == 0, output + errors
    return output


async def test_every_recipe_is_tested() -> None:
    assert list(SECTIONS) == [KEYS, TOKENS, PROXY]
    assert [len(blocks(section, "run")) for section in SECTIONS] == [2, 1, 1]


async def test_other_services_get_in_with_keys(forks: Forks, tmp_path: Path) -> None:
    variables = settings(KEYS, {})
    async with service_with(forks, tmp_path, **variables) as service:
        output = await run_blocks(KEYS, {"localhost:8000": urlsplit(service.url).netloc}, tmp_path, **variables)

    assert output.count('"user_id":"shop:user123"') == 2
    assert [line.split()[2] for line in output.splitlines() if line.endswith("  shop")] == ["revoked", "active"]


async def test_users_of_a_front_end_get_in_with_their_tokens(forks: Forks, tmp_path: Path) -> None:
    async with IdentityProvider() as provider:
        names = {"https://example.eu.auth0.com": provider.url}
        async with service_with(forks, tmp_path, **settings(TOKENS, names)) as service:
            names["localhost:8000"] = urlsplit(service.url).netloc
            output = await run_blocks(TOKENS, names, tmp_path)
            async with client_of(service.url) as client:
                origin = {"Origin": "https://www.example.org", "Authorization": f"Bearer {provider.token('other')}"}
                refused = await client.get("/api/chat/history/x", headers=origin)

    assert f'"user_id":"{provider.user}"' in output
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://www.example.org"


async def test_users_get_in_through_a_proxy_with_a_login(forks: Forks, tmp_path: Path) -> None:
    [caddyfile] = blocks(PROXY, "caddyfile")
    caddyfile = "{\n\tadmin off\n\tauto_https off\n}\n" + caddyfile
    site = f"http://127.0.0.1:{free_port()}"
    async with IdentityProvider() as provider:
        names = {"https://id.example.org": provider.url, "https://chat.example.org": site, "chat.example.org": site}
        async with service_with(forks, tmp_path, **settings(PROXY, names)) as service:
            ports = {"127.0.0.1:8000": urlsplit(service.url).netloc, "127.0.0.1:4180": urlsplit(provider.url).netloc}
            configuration = renamed(caddyfile, names | ports)
            async with caddy(configuration, site, tmp_path), client_of(site) as client:
                streamed = await run_blocks(PROXY, names, tmp_path)
                page = await client.get("/", follow_redirects=False)
                anonymous = await client.get("/api/chat/history/x")
                own = await client.get(f"/api/chat/history/{provider.user}", headers=LOGGED_IN)
                forged = {"Authorization": f"Bearer {provider.token('chat', sub='ann')}"} | LOGGED_IN
                foreign = [await client.get("/api/chat/history/ann", headers=each) for each in (LOGGED_IN, forged)]

    assert ChatStream.of(streamed.encode()).text == "Hello, world!"
    assert (page.status_code, page.headers["Location"]) == (302, "/oauth2/start")
    assert anonymous.status_code == 401
    assert own.json()["count"] == 1
    assert [response.status_code for response in foreign] == [403, 403]
