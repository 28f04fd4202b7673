"""The parts of deploy/compose.yaml as processes: the key it makes, two instances on PostgreSQL, Caddy in front.

There is no container engine here: images, networks and volumes are not tested.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from tests.harness.caddy import caddy, free_port
from tests.harness.chat_stream import ChatStream
from tests.harness.exchange import client_of
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ROOT, clean_environment

DEPLOY: Final = ROOT / "deploy"
HELLO: Final = {"user_id": "user123", "message": "Hello?"}


def variables(compose: Any, directory: Path, database: str, upstream: ScriptedUpstream) -> Mapping[str, str]:
    """Return the environment of an instance, with addresses and a directory of this machine."""
    documented = dict(compose["services"]["chat-a"]["environment"])
    assert documented["AUTH_MODE"] == "api_key"
    ours = {"HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": str(directory), "DATABASE_URL": database}
    return {**documented, **ours, "TRUSTED_PROXIES": "127.0.0.1", "OPENAI_BASE_URL": upstream.base_url}


def make_key(compose: Any, environment: Mapping[str, str]) -> str:
    """Run the command of the service `key`, and return the key that it has stored."""
    key = compose["services"]["key"]
    directory = Path(environment["DATA_DIR"])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [*key["entrypoint"], key["command"][0].replace("/data", str(directory))],
        cwd=directory,
        env=clean_environment(**environment, PATH=path),
        check=True,
        timeout=60,
    )
    return (directory / "service.key").read_text().strip()


async def test_clients_get_in_with_the_key_of_the_composition_only(
    forks: Forks, postgres: Postgres, tmp_path: Path
) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    site = f"http://127.0.0.1:{free_port()}"
    database = await asyncio.to_thread(postgres.new_database)
    async with ScriptedUpstream() as upstream:
        environment = variables(compose, tmp_path, database, upstream)
        key = await asyncio.to_thread(make_key, compose, environment)
        async with forks.service(tmp_path, **environment) as one, forks.service(tmp_path, **environment) as other:
            upstreams = " ".join(urlsplit(service.url).netloc for service in (one, other))
            caddyfile = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
            async with caddy(caddyfile, site, tmp_path, SITE=site, UPSTREAMS=upstreams), client_of(site) as client:
                with_key = {"Authorization": f"Bearer {key}"}
                detailed = [await client.get("/api/health/detailed", headers=with_key) for _ in range(4)]
                streamed = await client.post("/api/chat", json=HELLO, headers=with_key)
                listed = await client.get("/api/chat/history/user123", headers=with_key)
                refused = [
                    await client.post("/api/chat", json=HELLO, headers=headers)
                    for headers in ({}, {"Authorization": f"Bearer {key[:-1]}x"}, {"X-Forwarded-For": "127.0.0.1"})
                ]
            log = (tmp_path / "caddy.log").read_text()

    assert {response.status_code for response in detailed} == {200}
    assert ChatStream.of(streamed.content).text == "Hello, world!"
    assert listed.json()["count"] == 1
    assert [response.status_code for response in refused] == [401, 401, 401]
    assert key.rpartition("_")[2] not in log
    assert re.search("user123", log) is None
