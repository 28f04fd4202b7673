"""Clients that are generated from the OpenAPI document chat, read the history and store a memory."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.harness.commands import run
from tests.harness.documents import ROOT, files_of
from tests.harness.fakes import ScriptedLLM
from tests.harness.node_tools import bundle, check_types, link_packages, node
from tests.harness.servers import Service, running_service

PROGRAMS = files_of(ROOT / "docs" / "generated-clients.md")
EXPECTED = [
    "Hello, world!",
    "false Hello",
    "false , ",
    "false world",
    "false !",
    "true ",
    "2 turns",
    "memory UUID",
]


def program(name: str, service: Service, directory: Path) -> Path:
    """Write a documented program, for this service."""
    path = directory / name
    path.write_text(PROGRAMS[name].replace("http://localhost:8000", service.url))
    return path


def printed(output: str) -> list[str]:
    """Return the lines of a program's output, whatever its language and the id of the memory."""
    plain = re.sub("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", output)
    return plain.replace("True", "true").replace("False", "false").splitlines()


async def run_typescript(name: str, service: Service, directory: Path) -> str:
    program(name, service, directory)
    await check_types(directory, name)
    await bundle(directory, name, "program.mjs", "--platform=node")
    return await node("node", "program.mjs", directory=directory)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    link_packages(tmp_path)
    return tmp_path


async def test_openapi_typescript(packages: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await node("openapi-typescript", f"{service.url}/openapi.json", "-o", "schema.ts", directory=packages)
        output = await run_typescript("openapi-typescript.ts", service, packages)

    assert printed(output) == EXPECTED


async def test_hey_api_openapi_ts(packages: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await node("openapi-ts", "-i", f"{service.url}/openapi.json", "-o", "client", directory=packages)
        output = await run_typescript("hey-api.ts", service, packages)

    assert printed(output) == EXPECTED


async def test_openapi_python_client(tmp_path: Path) -> None:
    generator = Path(sys.executable).with_name("openapi-python-client")
    path = os.pathsep.join([str(generator.parent), os.environ["PATH"]])
    target = ("--meta", "none", "--output-path", "smart_chatbot_client", "--fail-on-warning")
    async with running_service({"llm": ScriptedLLM()}) as service:
        url = f"{service.url}/openapi.json"
        generated = await run(generator, "generate", "--url", url, *target, directory=tmp_path, PATH=path)
        assert generated[0] == 0, generated
        file = program("python.py", service, tmp_path)
        status, output, errors = await run(sys.executable, file, directory=tmp_path)

    assert status == 0, errors
    assert printed(output) == EXPECTED
