"""Real proxies in front of a service, with the configurations of docs/proxies.md."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.harness.documents import ROOT, files_of

_CONFIGURATIONS: Final = files_of(ROOT / "docs" / "proxies.md")


@dataclass(frozen=True)
class Proxy:
    """A proxy: its program, its documented configuration, and what a machine's own configuration adds around it."""

    program: str
    file: str
    wrapped: Callable[[str, Path], str]
    arguments: Callable[[Path], list[str]]


def _nginx(site: str, directory: Path) -> str:
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
    )


def _apache(site: str, directory: Path) -> str:
    modules = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "proxy", "proxy_http")
    )
    port = site.split("*:")[1].split(">")[0]
    return (
        f"ServerRoot {directory}\nPidFile {directory}/pid\nErrorLog /dev/stderr\nServerName localhost\n"
        f"DefaultRuntimeDir {directory}\nUser daemon\nGroup daemon\nListen 127.0.0.1:{port}\n{modules}{site}"
    )


PROXIES: Final = {
    "nginx": Proxy("nginx", "nginx.conf", _nginx, lambda file: ["-p", str(file.parent), "-c", str(file)]),
    "caddy": Proxy(
        "caddy",
        "Caddyfile",
        lambda site, _: "{\nadmin off\n}\n" + site,
        lambda file: ["run", "--config", str(file), "--adapter", "caddyfile"],
    ),
    "haproxy": Proxy("haproxy", "haproxy.cfg", lambda site, _: site, lambda file: ["-db", "-f", str(file)]),
    "apache": Proxy("apache2", "apache.conf", _apache, lambda file: ["-X", "-f", str(file)]),
}


@asynccontextmanager
async def proxy(name: str, url: str, directory: Path) -> AsyncIterator[str]:
    """Run a proxy in front of a service, and return its URL."""
    chosen, port, target = PROXIES[name], _free_port(), urlsplit(url).port
    program = shutil.which(chosen.program, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.fail(f"This test needs {chosen.program}: run `make test-tools`.")
    site = _CONFIGURATIONS[chosen.file].replace("8080", str(port)).replace("127.0.0.1:8000", f"127.0.0.1:{target}")
    file = directory / chosen.file
    file.write_text(chosen.wrapped(site, directory))
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            *chosen.arguments(file),
            env={"HOME": str(directory), "PATH": "/usr/sbin:/usr/bin:/bin", "XDG_DATA_HOME": str(directory)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
    try:
        await _listening(process, port, directory / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, log.read_text()
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
